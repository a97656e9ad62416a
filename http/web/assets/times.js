// Shows every <time> relative to now, with the exact one on hover, and keeps it so.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "long" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

export function describe(time, now = Date.now()) {
  const seconds = (time - now) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  if (Math.abs(seconds) > 30 * 86400) return new Intl.DateTimeFormat("en", { dateStyle: "medium" }).format(time);
  const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size);
  return relative.format(Math.trunc(seconds / size), unit);
}

export function show(element) {
  const time = Date.parse(element.dateTime);
  if (Number.isNaN(time)) return;
  element.title = exact.format(time);
  element.textContent = describe(time);
}

export function showAll(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) show(element);
}

showAll();
setInterval(showAll, 10_000);
document.addEventListener("visibilitychange", () => document.hidden || showAll());
