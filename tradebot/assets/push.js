// Whether this device is told of new signals and fills.

import { ask, element, Refused, signIn } from "./desk.js";

const JSON_BODY = { "Content-Type": "application/json" };
const send = (path, body) => ask(path, { method: "POST", body: JSON.stringify(body), headers: JSON_BODY });

function bytes(text) {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/") + "=".repeat((4 - (text.length % 4)) % 4));
  return Uint8Array.from(plain, (character) => character.charCodeAt(0));
}

export async function render({ el }) {
  if (!("serviceWorker" in navigator) || !("PushManager" in window)) return;
  const { key } = await ask("/push/key").catch(() => ({}));
  if (!key) return;  // the server has none: it doesn't push
  const button = element("button", { type: "button" }), problem = element("p", { class: "problem", role: "alert" });
  const registration = await navigator.serviceWorker.ready;
  let known = await registration.pushManager.getSubscription();
  const draw = () => { button.textContent = known ? "Stop notifying this device" : "Notify this device"; };
  button.addEventListener("click", async () => {
    button.disabled = true;
    problem.textContent = "";
    try {
      if (known) {
        await send("/push/unsubscribe", { endpoint: known.endpoint });
        await known.unsubscribe();
        known = null;
      } else {
        const made = await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytes(key) });
        const { endpoint, keys } = made.toJSON();
        await send("/push/subscribe", { endpoint, keys });
        known = made;
      }
    } catch (error) {
      problem.replaceChildren(error instanceof Refused ? element("a", { href: signIn() }, "Sign in first.")
        : error.name === "NotAllowedError" ? "The browser does not allow notifications of this page." : error.message);
    } finally {
      button.disabled = false;
      draw();
    }
  });
  draw();
  el.append(button, problem);
}
