// Talks to the server: items come as documents (parsed by the browser without running anything), the rest as JSON.

const HEARTBEAT_MS = 60_000;

// Returns {status, article}: the part of the answer that is an item, or says that there is none. Status 0: no answer at all.
export function askItem(url, body = {}) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.responseType = "document";
    request.timeout = 20000;
    request.setRequestHeader("Content-Type", "application/json");
    request.setRequestHeader("Accept", "text/html");
    request.onload = () => {
      const article = request.response?.querySelector("#task, #done");
      resolve({status: request.status, article: article && document.importNode(article, true)});
    };
    request.onerror = request.ontimeout = () => resolve({status: 0, article: null});
    request.send(JSON.stringify(body));
  });
}

// Returns {status, body}; status 0 means no answer at all.
export async function post(url, body, options = {}) {
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: {"Content-Type": "application/json", Accept: "application/json"},
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20000),
      ...options,
    });
    return {status: response.status, body: await response.json().catch(() => ({}))};
  } catch {
    return {status: 0, body: {}};
  }
}

// Sends a sign of life a minute for each lease in `held()`; `over()` looks whether the time of one has run out.
export function stayAlive({held, url, over}) {
  setInterval(async () => {
    for (const one of held()) {
      const {status, body} = await post(url(one), {});
      if (status === 200) one.expires = performance.now() + 1000 * body.seconds;
    }
  }, HEARTBEAT_MS);
  setInterval(over, 1000);
}

// crypto.randomUUID exists only on https and localhost; teams also rank over plain http in their own network.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export function remember(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* A private window forgets it with the page. */ }
}

export function recall(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
}
