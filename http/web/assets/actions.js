// The buttons that change an order. Each sends one call of the API and says what came of it.

import { insist, newKey } from "./api.js";
import { minor } from "./view.js";

// listen makes the buttons inside root work. orderOf(button) is the order that a button belongs to: its id, currency and exponent, and
// whether the page is to be loaded again afterwards (where no stream brings the change).
export function listen(root, orderOf) {
  root?.addEventListener("click", async (e) => {
    const button = e.target.closest("[data-action]");
    if (!button || button.disabled) return;
    const order = orderOf(button);
    const action = button.dataset.action;
    const error = root.querySelector("[data-action-error]");
    error.hidden = true;
    const asked = await ask(action, order);
    if (!asked) return;
    if (asked.problem) return say(error, asked.problem);
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    try {
      // One key for all tries of a refund. The other calls are safe to repeat as they are.
      await insist("POST", `/v1/orders/${encodeURIComponent(order.id)}/${action}`, {
        body: asked.body && JSON.stringify(asked.body),
        key: action === "refunds" ? newKey() : undefined,
      });
      if (order.reload) location.reload();
    } catch (problem) {
      say(error, problem.status === 401 ? "Your session has ended: log in again." : problem.message);
    } finally {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  });
}

function say(element, text) {
  element.textContent = text;
  element.hidden = false;
  element.scrollIntoView({ block: "nearest" });
}

// ask opens the action's dialog, if it has one, and returns the body to send; null if the person thought better of it.
async function ask(action, order) {
  const dialog = document.getElementById({ cancel: "cancel-dialog", hold: "hold-dialog", refunds: "refund-dialog" }[action] ?? "");
  if (!dialog) return {};
  const form = dialog.querySelector("form");
  form.reset();
  const currency = dialog.querySelector("[data-currency]");
  if (currency) currency.textContent = order.currency;
  // Not by the close event: that of a dialog which was just dismissed may come after it was opened again.
  const confirmed = await new Promise((resolve) => {
    dialog.querySelector("[data-dismiss]").onclick = () => {
      dialog.close();
      resolve(false);
    };
    dialog.oncancel = () => resolve(false);
    form.onsubmit = (e) => resolve(e.submitter?.value === "confirm");
    dialog.showModal();
  });
  if (!confirmed) return null;
  const fields = Object.fromEntries(new FormData(form));
  if (action !== "refunds") return { body: fields.reason?.trim() ? { reason: fields.reason.trim() } : {} };
  if (!fields.amount.trim()) return { body: {} };
  const amount = minor(fields.amount, order.exponent);
  if (!amount) return { problem: `An amount in ${order.currency} has at most ${order.exponent} decimal digits and is more than 0.` };
  return { body: { amount_minor: amount } };
}
