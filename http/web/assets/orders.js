// Lists of orders: states change as they happen, and new orders are announced.

import { follow } from "./live.js";
import { listen } from "./actions.js";
import { showConnection, showStates, words } from "./view.js";

const table = document.querySelector("table[data-stream]");
const news = document.getElementById("news");
const fresh = new Set();
let cursor = "";

function apply(event, id) {
  cursor = id;
  const row = table?.querySelector(`tr[data-order="${CSS.escape(event.order_id)}"]`);
  if (row) {
    if (event.version <= Number(row.dataset.version)) return; // streams of many orders may repeat
    row.dataset.version = event.version;
    showStates(row, event);
    row.classList.remove("fresh");
    void row.offsetWidth; // so that the highlight starts anew
    row.classList.add("fresh");
  } else if (event.type === "order.placed") {
    fresh.add(event.order_id);
    announce(fresh.size === 1 ? "There is a new order." : `There are ${fresh.size} new orders.`);
  }
  if (event.type === "order.on_hold" && document.querySelector("[data-waiting]") && !document.querySelector(`[data-held="${CSS.escape(event.order_id)}"]`)) {
    announce("An order has been put on hold.");
  }
}

function announce(text) {
  if (!news) return;
  news.querySelector("[data-text]").textContent = text;
  news.hidden = false;
}

listen(document.getElementById("main"), (button) => {
  const { order: id, currency, exponent } = button.closest("[data-order][data-currency]").dataset;
  return { id, currency, exponent: Number(exponent), reload: true };
});

follow({
  address: "/v1/stream",
  resume: () => (cursor ? `?last_event_id=${encodeURIComponent(cursor)}` : ""),
  probe: "/v1/orders?limit=1",
  types: Object.keys(words.events),
  on: { event: apply, state: showConnection },
});
