// An order's page: its timeline and all that follows from it, live.

import { follow } from "./live.js";
import { listen } from "./actions.js";
import { call } from "./api.js";
import { show } from "./times.js";
import { describe, money, showConnection, showStates, words } from "./view.js";

const order = document.getElementById("order");
const { order: id, currency } = order.dataset;
const exponent = Number(order.dataset.exponent);
const timeline = document.getElementById("timeline");
let version = Number(timeline.lastElementChild?.dataset.version ?? 0);
const sums = { captured: Number(order.dataset.captured), refunded: Number(order.dataset.refunded) };
const done = new Set(Array.from(order.querySelectorAll('.steps [data-state="done"]'), (step) => step.dataset.step));

// apply shows what an event says. Events come in order and without a hole; one that was shown already is passed over.
function apply(event) {
  if (event.version <= version) return;
  version = event.version;
  const label = words.events[event.type] ?? { text: event.type, tone: "neutral" };
  append(event, label);
  order.dataset.status = event.status;
  order.dataset.version = String(event.version);
  showStates(order, event);
  showSteps(event, label);
  showMoney(event);
  showParcel(event);
  showNotices(event);
  showActions(event);
}

function append(event, label) {
  const entry = document.getElementById("entry").content.firstElementChild.cloneNode(true);
  entry.dataset.version = event.version;
  entry.dataset.tone = label.tone;
  entry.classList.add("fresh");
  entry.querySelector(".event").textContent = label.text;
  const detail = describe(label.detail, event.data, exponent);
  if (detail) entry.querySelector(".detail").textContent = detail;
  else entry.querySelector(".detail").remove();
  const time = entry.querySelector("time");
  time.dateTime = event.at;
  show(time);
  timeline.append(entry);
  document.getElementById("announce").textContent = `${label.text}. ${detail}`;
}

// showSteps marks the steps taken; the first that is not is the current one, in the tone of the order's status.
function showSteps(event, label) {
  if (label.done) done.add(label.done);
  let current = event.status !== "completed";
  for (const step of order.querySelectorAll(".steps [data-step]")) {
    step.removeAttribute("aria-current");
    if (done.has(step.dataset.step)) {
      Object.assign(step.dataset, { state: "done", tone: "good" });
    } else if (current) {
      Object.assign(step.dataset, { state: "current", tone: words.orders[event.status]?.tone ?? "neutral" });
      step.setAttribute("aria-current", "step");
      current = false;
    } else {
      Object.assign(step.dataset, { state: "ahead", tone: "neutral" });
    }
  }
}

function showMoney(event) {
  const name = { "payment.captured": "captured", "payment.refunded": "refunded" }[event.type];
  if (!name) return;
  sums[name] += event.data.amount_minor ?? 0;
  const cell = order.querySelector(`td[data-${name}]`);
  cell.textContent = money(sums[name], currency, exponent);
  cell.closest("tr").hidden = false;
}

function showParcel(event) {
  if (!event.data.tracking_number) return;
  const cell = order.querySelector("[data-tracking]");
  cell.textContent = `${event.data.carrier ?? ""} ${event.data.tracking_number}`.trim();
  cell.parentElement.hidden = false;
}

function showNotices(event) {
  const action = document.getElementById("action");
  const address = actionAddress(event.data.action_url);
  if (address) action.querySelector("a").href = address;
  action.hidden = event.status !== "requires_action" || !action.querySelector("a").getAttribute("href");
  const held = document.getElementById("held");
  const reason = held.querySelector("[data-reason]");
  if (reason && event.type === "order.on_hold") showReason(reason);
  held.hidden = event.status !== "on_hold";
}

// showReason asks why the order is held: events do not say, since customers read them too.
async function showReason(cell) {
  cell.textContent = "…";
  try {
    const { body } = await call("GET", `/v1/orders/${id}`);
    cell.textContent = (body.hold_reason ?? "").replaceAll("_", " ");
  } catch {
    cell.textContent = "reload the page to see it";
  }
}

// actionAddress lets pages through, and nothing that would run as a script.
function actionAddress(text) {
  if (!text) return "";
  const address = URL.parse?.(text, location.href) ?? new URL(text, location.href);
  return ["http:", "https:"].includes(address.protocol) ? address.href : "";
}

function showActions(event) {
  const over = words.final.includes(event.status);
  const gone = ["fulfilled", "delivered"].includes(event.fulfillment_status);
  const paid = ["paid", "partially_paid", "partially_refunded"].includes(event.payment_status);
  const possible = { cancel: !over && !gone, release: event.status === "on_hold", retry: !over, hold: !over && event.status !== "on_hold", refunds: paid };
  const buttons = Array.from(document.querySelectorAll("#actions [data-action]"));
  for (const button of buttons) button.hidden = !possible[button.dataset.action];
  document.getElementById("actions").hidden = buttons.every((button) => button.hidden);
}

listen(document.getElementById("actions"), () => ({ id, currency, exponent }));

const path = `/v1/orders/${id}`;
follow({
  address: `${path}/stream`,
  resume: () => `?last_event_id=${version}`,
  probe: path,
  types: Object.keys(words.events),
  on: { event: apply, state: showConnection },
});
