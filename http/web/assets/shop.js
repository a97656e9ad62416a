// The basket: kept in this browser, sent as one order.

import { insist, newKey, Problem } from "./api.js";
import { money } from "./view.js";

const MAX_QUANTITY = 10_000;
const products = new Map();
for (const element of document.querySelectorAll(".product")) {
  const { sku, name, price, currency, exponent, available } = element.dataset;
  products.set(sku, { sku, name, price: Number(price), currency, exponent: Number(exponent), available: Number(available) });
}

const form = document.getElementById("order-form");
const list = document.getElementById("basket-lines");
const place = document.getElementById("place");
const progress = document.getElementById("order-progress");
const errorBox = document.getElementById("order-error");

// lines is what is in the basket, each with the product as it was when it was put in: it may stand on another page of the catalogue.
let lines = load();

function load() {
  let stored;
  try {
    stored = JSON.parse(localStorage.getItem("millrace.basket") ?? "[]");
  } catch {
    return [];
  }
  if (!Array.isArray(stored)) return [];
  return stored
    .filter((line) => line && typeof line.sku === "string" && Number.isInteger(line.quantity) && line.quantity > 0)
    .map((line) => ({ ...line, ...products.get(line.sku) }))
    .filter((line) => Number.isInteger(line.price) && Number.isInteger(line.exponent));
}

function save() {
  try {
    localStorage.setItem("millrace.basket", JSON.stringify(lines));
  } catch {
    // a browser that keeps nothing: the basket lasts as long as the page
  }
}

addEventListener("storage", (e) => {
  if (e.key !== "millrace.basket") return;
  lines = load();
  draw();
});

function change(sku, quantity) {
  const line = lines.find((l) => l.sku === sku);
  if (line) line.quantity = Math.min(quantity, MAX_QUANTITY);
  else if (products.has(sku)) lines.push({ ...products.get(sku), quantity });
  lines = lines.filter((l) => l.quantity > 0);
  save();
  draw();
}

function draw() {
  const focused = document.activeElement?.dataset?.focus;
  document.getElementById("basket-empty").hidden = lines.length > 0;
  form.hidden = lines.length === 0;
  const link = document.getElementById("basket-link");
  link.hidden = lines.length === 0;
  link.textContent = `Basket: ${lines.reduce((sum, l) => sum + l.quantity, 0)}`;
  list.replaceChildren(...lines.map(drawLine));
  const totals = new Map();
  for (const l of lines) {
    const sum = totals.get(l.currency) ?? { minor: 0n, exponent: l.exponent };
    sum.minor += BigInt(l.price) * BigInt(l.quantity);
    totals.set(l.currency, sum);
  }
  document.getElementById("basket-total").textContent =
    Array.from(totals, ([currency, { minor, exponent }]) => money(minor, currency, exponent)).join(" + ") || "–";
  if (focused) list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function drawLine(line) {
  const item = document.getElementById("basket-line").content.firstElementChild.cloneNode(true);
  item.dataset.sku = line.sku;
  item.querySelector(".basket-name").textContent = line.name;
  item.querySelector(".basket-price").textContent = money(BigInt(line.price) * BigInt(line.quantity), line.currency, line.exponent);
  const quantity = item.querySelector("[data-quantity]");
  quantity.value = line.quantity;
  quantity.setAttribute("aria-label", `Quantity of ${line.name}`);
  quantity.addEventListener("change", () => {
    const n = Number(quantity.value);
    change(line.sku, Number.isInteger(n) && n >= 0 ? n : line.quantity);
  });
  const button = (selector, label, then) => {
    const element = item.querySelector(selector);
    element.setAttribute("aria-label", label);
    element.dataset.focus = `${selector} ${line.sku}`;
    element.addEventListener("click", then);
  };
  button("[data-less]", `One ${line.name} less`, () => change(line.sku, line.quantity - 1));
  button("[data-more]", `One ${line.name} more`, () => change(line.sku, line.quantity + 1));
  button("[data-remove]", `Remove ${line.name}`, () => change(line.sku, 0));
  return item;
}

document.querySelector(".products")?.addEventListener("click", (e) => {
  const button = e.target.closest("[data-add]");
  if (!button) return;
  const sku = button.dataset.add;
  change(sku, (lines.find((l) => l.sku === sku)?.quantity ?? 0) + 1);
  label(button, "Added");
  setTimeout(() => label(button, "Add"), 1200);
});

function label(button, word) {
  button.textContent = word;
  button.setAttribute("aria-label", `${word} ${products.get(button.dataset.add).name} to the basket`);
}

// request is the order as the API takes it. Optional fields left empty are left out.
function request() {
  const order = { lines: lines.map(({ sku, quantity }) => ({ sku, quantity })), ship_to: {} };
  for (const [name, value] of new FormData(form)) {
    const text = value.trim();
    if (!name.startsWith("ship_to.")) order[name] = text;
    else if (text || form.elements.namedItem(name).required) order.ship_to[name.slice("ship_to.".length)] = name === "ship_to.country" ? text.toUpperCase() : text;
  }
  return order;
}

// The submission under way: what was sent, and the idempotency key that it was sent under. It outlives a reload of the page, so that
// pressing the button again never orders twice.
let submission = stored();

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem("millrace.submission"));
  } catch {
    return null;
  }
}

// keyFor is the key of a submission: the same until the order is placed or something in it is changed.
function keyFor(body) {
  if (submission?.body !== body || !submission.key) submission = { body, key: newKey() };
  try {
    sessionStorage.setItem("millrace.submission", JSON.stringify(submission));
  } catch {
    // a browser that keeps nothing: the key lasts as long as the page
  }
  return submission.key;
}

function forgetSubmission() {
  submission = null;
  try {
    sessionStorage.removeItem("millrace.submission");
  } catch {
    // there is none
  }
}

form?.addEventListener("submit", async (e) => {
  e.preventDefault();
  if (!place || place.disabled) return;
  clearErrors();
  const blank = Array.from(form.elements).filter((field) => field.required && field.value.trim() === "");
  if (blank.length > 0) {
    for (const field of blank) mark(field, "Please fill this in.");
    blank[0].focus();
    return;
  }
  const body = JSON.stringify(request());
  busy(true, "Placing your order…");
  try {
    const { body: order } = await insist("POST", "/v1/orders", { body, key: keyFor(body) }, (seconds) =>
      busy(true, `No answer yet. Trying again in ${seconds} s; you will not be charged twice.`));
    forgetSubmission();
    lines = [];
    save();
    busy(true, "Order placed.");
    location.assign(`/orders/${encodeURIComponent(order.id)}`);
  } catch (problem) {
    busy(false, "");
    if (problem instanceof Problem && problem.code === "key_reused") forgetSubmission();
    showProblem(problem);
  }
});

function busy(on, text) {
  place.disabled = on;
  place.setAttribute("aria-busy", String(on));
  progress.textContent = text;
}

// showProblem says what went wrong: next to each field that is named, and above the button for the rest.
function showProblem(problem) {
  const rest = [];
  let first = null;
  for (const { location = "", message } of problem.errors ?? []) {
    const field = fieldOf(location.replace(/^body\./, ""));
    if (!field) {
      rest.push(message);
      continue;
    }
    first ??= mark(field, message);
  }
  const lead = document.createElement("p");
  if (problem.status === 401) {
    lead.append("Your session has ended. ");
    const login = document.createElement("a");
    login.href = `/auth/login?next=${encodeURIComponent("/")}`;
    login.textContent = "Log in again";
    lead.append(login, "; the basket stays.");
  } else if (problem instanceof Problem && problem.passing) {
    lead.textContent = `${problem.message} Press the button again: it is the same order and will be placed once.`;
  } else if (first) {
    lead.textContent = "Please correct what is marked above.";
  } else {
    lead.textContent = rest[0] ?? problem.message ?? "Something went wrong. Press the button again.";
  }
  errorBox.replaceChildren(lead);
  errorBox.hidden = false;
  (first ?? errorBox).focus();
}

// fieldOf is the input, or the line of the basket, that a place in the request came from.
function fieldOf(place) {
  const line = /^lines\[(\d+)\]/.exec(place);
  if (line) return list.children[Number(line[1])]?.querySelector("[data-quantity]");
  const field = form.elements.namedItem(place);
  if (field instanceof RadioNodeList) return field[0];
  return field;
}

function mark(field, message) {
  const text = document.createElement("p");
  text.className = "field-error";
  text.id = `error-${field.id || field.name || field.closest("[data-sku]").dataset.sku}`;
  text.textContent = message.replace(/^ship_to\.[a-z_0-9]+/, "This");
  field.setAttribute("aria-invalid", "true");
  field.dataset.hint ??= field.getAttribute("aria-describedby") ?? "";
  field.setAttribute("aria-describedby", `${text.id} ${field.dataset.hint}`.trim());
  const holder = field.closest(".basket-line, fieldset[data-field]");
  if (holder) holder.append(text);
  else field.after(text);
  return field;
}

function clearErrors() {
  errorBox.hidden = true;
  for (const text of form.querySelectorAll(".field-error")) text.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    if (field.dataset.hint) field.setAttribute("aria-describedby", field.dataset.hint);
    else field.removeAttribute("aria-describedby");
  }
}

draw();
