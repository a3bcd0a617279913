// The service worker: it shows what the server pushes, and leads to it. Nothing is kept for when there is no connection, since an
// old price is worse than none.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("push", (event) => {
  const { title, body, tag, url } = event.data.json();
  event.waitUntil(self.registration.showNotification(title, { body, tag, data: { url }, icon: "/assets/icon-192.png" }));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { url } = event.notification.data;
  event.waitUntil(self.clients.matchAll({ type: "window" }).then((open) =>
    open.length ? open[0].navigate(url).then((page) => page.focus()) : self.clients.openWindow(url)));
});
