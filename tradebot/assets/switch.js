// The kill switch, with a confirmation. The page only asks; the API decides who may.

import { ask, element, signIn, Refused } from "./desk.js";

export function render({ model, el }) {
  const open = element("button", { type: "button" });
  const reason = element("input", { type: "text", maxlength: 500, id: "reason", autocomplete: "off" });
  const problem = element("p", { class: "problem", role: "alert" });
  const title = element("h2", {}), words = element("p"), label = element("label", { for: "reason" });
  const yes = element("button", { type: "submit" });
  const no = element("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = element("form", { method: "dialog" }, title, words, label, reason, problem,
    element("div", { class: "actions" }, no, yes));
  const dialog = element("dialog", { "aria-label": "Kill switch" }, form);
  const draw = () => {
    const on = model.stopped;
    open.textContent = on ? "Turn the kill switch off" : "Stop buying";
    open.className = yes.className = on ? "" : "stop";
    title.textContent = on ? "Allow buying again?" : "Stop all buying?";
    words.textContent = on
      ? "Signals that are still fresh will be bought again, by every executor of this store."
      : "Nothing is bought from now on, and buys that wait at the broker are cancelled. Sells go on.";
    label.textContent = on ? "Why it is safe again" : "Reason, for the record";
    yes.textContent = on ? "Allow buying" : "Stop buying";
  };
  open.addEventListener("click", () => { reason.value = problem.textContent = ""; draw(); dialog.showModal(); reason.focus(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    yes.disabled = true;
    const body = JSON.stringify({ on: !model.stopped, reason: reason.value });
    try {
      const now = await ask("/kill-switch", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      model.stopped = now.on;
      dialog.close();
    } catch (error) {
      problem.replaceChildren(error instanceof Refused
        ? element("span", {}, "This takes a key that may trade: ", element("a", { href: signIn() }, "sign in"), ".")
        : error.message);
    } finally {
      yes.disabled = false;
    }
  });
  model.on("stopped", draw);
  draw();
  el.append(open, dialog);
}
