// What only the browser knows: its time zone, its width, and whether its owner likes the dark. The choice is kept in a cookie, so that the
// next page is dark from its first byte.

import { element } from "./desk.js";

export function render({ model }) {
  if (!document.querySelector("link[rel=manifest]"))
    document.head.append(element("link", { rel: "manifest", href: "/manifest.webmanifest" }));
  navigator.serviceWorker?.register("/sw.js");
  model.zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const phone = matchMedia("(max-width: 600px)");
  model.narrow = phone.matches;
  phone.addEventListener("change", () => { model.narrow = phone.matches; });
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => document.cookie.match(/(?:^|; )tradebot-theme=(dark|light)/)?.[1];
  const paint = () => { document.documentElement.dataset.theme = model.dark ? "dark" : "light"; };
  if (!chosen()) model.dark = system.matches;
  paint();
  model.on("dark", () => {
    paint();
    if (model.dark !== system.matches || chosen())
      document.cookie = `tradebot-theme=${model.dark ? "dark" : "light"}; path=/; max-age=31536000; SameSite=Lax`;
  });
  system.addEventListener("change", () => { if (!chosen()) model.dark = system.matches; });
}
