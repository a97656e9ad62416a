// Calls of the API: what came back, or a Problem that says what to change.

export class Problem extends Error {
  constructor({ status = 0, code = "unreachable", detail, errors = [], retryAfter = 0 }) {
    super(detail);
    Object.assign(this, { status, code, errors, retryAfter });
  }

  // passing reports whether the same request may succeed a little later.
  get passing() {
    return this.status === 0 || this.code === "in_flight" || [429, 502, 503, 504].includes(this.status);
  }
}

const PATIENCE = 30_000;

// call sends a request with an optional JSON body (already encoded) and returns the decoded answer.
export async function call(method, path, { body, key, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  let answer;
  let text;
  try {
    answer = await fetch(path, { method, headers, body, signal: signal ?? AbortSignal.timeout(PATIENCE) });
    text = await answer.text();
  } catch {
    throw new Problem({ detail: "The shop could not be reached." });
  }
  let decoded = {};
  try {
    decoded = text ? JSON.parse(text) : {};
  } catch {
    // an answer from something in between; its status says enough
  }
  if (answer.ok) return { status: answer.status, body: decoded, location: answer.headers.get("Location") };
  throw new Problem({
    status: answer.status,
    code: decoded.code ?? "unreachable",
    detail: decoded.detail ?? `The shop answered with status ${answer.status}.`,
    errors: decoded.errors ?? [],
    retryAfter: Number(answer.headers.get("Retry-After")) || 0,
  });
}

// newKey makes an idempotency key. crypto.randomUUID exists on secure pages alone.
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

// insist calls again, a few times, while the failure is a passing one; told(seconds) says how long it waits. It is for requests
// that are safe to repeat: reads, and writes under an idempotency key.
export async function insist(method, path, options, told = () => {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call(method, path, options);
    } catch (problem) {
      if (!(problem instanceof Problem) || !problem.passing || attempt === 4) throw problem;
      const seconds = Math.min(Math.max(problem.retryAfter, 2 ** (attempt - 1)), 30);
      told(seconds);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
  }
}
