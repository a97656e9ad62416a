// The words for states and events, from the same tables as the server's templates, and the ways to show them.

export const words = JSON.parse(document.getElementById("vocabulary")?.textContent ?? "{}");

// money writes an amount of minor units: (1250, "EUR", 2) is "12.50 EUR".
export function money(minor, currency, exponent) {
  const amount = BigInt(minor);
  const digits = (amount < 0n ? -amount : amount).toString().padStart(exponent + 1, "0");
  const whole = digits.slice(0, digits.length - exponent);
  const sign = amount < 0n ? "-" : "";
  return `${sign}${whole}${exponent ? "." + digits.slice(-exponent) : ""} ${currency}`;
}

// minor reads an amount that a person has typed: ("12.5", 2) is 1250; null if it has more digits than the currency.
export function minor(text, exponent) {
  const [whole, fraction = ""] = text.trim().split(".");
  if (!/^\d{1,15}$/.test(whole) || !/^\d*$/.test(fraction) || fraction.length > exponent) return null;
  const amount = BigInt(whole + fraction.padEnd(exponent, "0"));
  return amount <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(amount) : null;
}

// describe fills an event's data into its pattern, as the server's describe does; empty where the data lacks a name.
export function describe(pattern, data, exponent) {
  let complete = true;
  const text = (pattern ?? "").replace(/\{([a-z_]+)\}/g, (_, name) => {
    const value = data[name];
    if (value === undefined || value === null || value === "") {
      complete = false;
      return "";
    }
    if (typeof value === "number") return money(value, data.currency ?? "", exponent);
    if (name === "reason" || name === "code") return String(value).replaceAll("_", " ");
    if (name === "expires_at") return `${new Date(value).toISOString().slice(0, 19).replace("T", " ")} UTC`;
    return String(value);
  });
  return complete ? text : "";
}

// setPill shows a state in the pill inside an element.
export function setPill(element, label) {
  const pill = element?.querySelector(".pill");
  if (!pill || !label) return;
  pill.textContent = label.text;
  pill.dataset.tone = label.tone;
}

// showStates shows an event's three states in the pills below an element.
export function showStates(root, event) {
  setPill(root.querySelector("[data-status]"), words.orders[event.status]);
  setPill(root.querySelector("[data-payment]"), words.payments[event.payment_status]);
  setPill(root.querySelector("[data-fulfillment]"), words.fulfillments[event.fulfillment_status]);
}

// showConnection shows the state of a live stream: connecting, live, waiting or ended.
export function showConnection(state, text) {
  const element = document.getElementById("connection");
  if (!element) return;
  element.hidden = false;
  element.dataset.state = state;
  element.querySelector("[data-text]").textContent = text;
}
