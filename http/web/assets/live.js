// Follows a stream of events, for as long as the page is open.
//
// The browser's EventSource comes back by itself after a connection that broke, and sends the last id it saw. It gives up for good on
// any answer that is not a stream: a server that restarts, a limit, a session that ended. So those are handled here: with waits that
// grow, and by asking whether there is any point in coming back.

const FIRST_WAIT = 1_000;
const LONGEST_WAIT = 30_000;

// follow calls on.event for each event and on.state(state, text) whenever the connection changes. resume() names the query to come
// back with after a refusal; probe is an address that answers with the status that the stream would have. It returns how to stop.
export function follow({ address, resume, probe, types, on }) {
  let source = null;
  let timer = null;
  let wait = FIRST_WAIT;
  let stopped = false;

  function open() {
    on.state("connecting", "Connecting…");
    source = new EventSource(address + resume());
    source.onopen = () => {
      wait = FIRST_WAIT;
      on.state("live", "Live");
    };
    source.onerror = () => {
      if (stopped) return;
      if (source.readyState === EventSource.CLOSED) refused();
      else on.state("connecting", "Reconnecting…");
    };
    for (const type of types) {
      source.addEventListener(type, (message) => {
        let event;
        try {
          event = JSON.parse(message.data);
        } catch {
          return; // it is in the database as well: the next load shows it
        }
        on.event(event, message.lastEventId);
      });
    }
  }

  function refused() {
    close();
    const delay = wait * (0.75 + Math.random() / 2);
    wait = Math.min(wait * 2, LONGEST_WAIT);
    on.state("waiting", `Not connected; trying again in ${Math.max(1, Math.round(delay / 1000))} s`);
    timer = setTimeout(retry, delay);
  }

  // retry opens the stream again, unless the reason for the refusal will not go away.
  async function retry() {
    timer = null;
    on.state("connecting", "Reconnecting…");
    let status = 0;
    try {
      status = (await fetch(probe, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10_000) })).status;
    } catch {
      // not to be reached now
    }
    if (stopped) return;
    if (status === 401) on.state("ended", "Log in again to go on");
    else if (status === 403 || status === 404) on.state("ended", "No longer available");
    else if (status === 200) open();
    else refused();
  }

  function close() {
    clearTimeout(timer);
    timer = null;
    source?.close();
  }

  // A machine that wakes up, or a network that is back, need not wait.
  function hurry() {
    if (!stopped && timer !== null && !document.hidden) {
      clearTimeout(timer);
      retry();
    }
  }
  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  // A page kept for the back button holds no stream; it takes one up again when it is shown.
  addEventListener("pagehide", close);
  addEventListener("pageshow", (e) => e.persisted && !stopped && open());

  open();
  return () => {
    stopped = true;
    close();
  };
}
