// Keeps answers on their way in the browser until the server has said it has them, and sends them again with the same UUID.
// Only lease ids and positions are kept here, never the texts.

const WAITS = [1, 2, 4, 8, 15, 30]; // seconds between tries

export class Outbox {
  // key: this person's place in local storage. told(entry, receipt), refused(entry, status, message), changed(count).
  constructor(key, {told, refused, changed}) {
    Object.assign(this, {key, told, refused, changed, tries: 0, running: null, timer: 0});
    addEventListener("online", () => this.flush());
  }

  entries() {
    try { return JSON.parse(localStorage.getItem(this.key)) ?? []; } catch { return []; }
  }

  keep(entries) {
    // Private windows may refuse storage: then the answers live as long as the page.
    try {
      localStorage.setItem(this.key, JSON.stringify(entries));
      this.memory = null;
    } catch {
      this.memory = entries;
    }
    this.changed(entries.length);
  }

  waiting() {
    return this.memory ?? this.entries();
  }

  put(entry) {
    this.keep([...this.waiting(), entry]);
    this.tries = 0;
    return this.flush();
  }

  drop(entry) {
    this.keep(this.waiting().filter((e) => e.body.uuid !== entry.body.uuid));
  }

  // Sends one at a time and in order, so that a correction never overtakes what it corrects. Two tabs may send the same
  // entry twice: the server answers the second time with the same receipt. Resolves when nothing more can be sent now.
  flush() {
    clearTimeout(this.timer);
    this.running ??= this.work().finally(() => (this.running = null));
    return this.running;
  }

  async work() {
    for (let entry = this.waiting()[0]; entry; entry = this.waiting()[0]) {
      if (!(await this.send(entry))) return this.later();
      this.tries = 0;
    }
  }

  async send(entry) {
    let response;
    try {
      response = await fetch(entry.url, {
        method: "POST",
        headers: {"Content-Type": "application/json", Accept: "application/json"},
        body: JSON.stringify(entry.body),
        signal: AbortSignal.timeout(20000),
      });
    } catch { return false; }
    if (response.ok) {
      this.drop(entry);
      this.told(entry, await response.json().catch(() => ({})));
      return true;
    }
    // These are worth another try: overload, a restart, or a session that ended (signing in again in another tab mends it).
    if (response.status >= 500 || [401, 408, 425, 429].includes(response.status)) {
      this.refused(entry, response.status, "");
      return false;
    }
    this.drop(entry);
    const body = await response.json().catch(() => ({}));
    this.refused(entry, response.status, body.error ?? body.detail ?? "");
    return true;
  }

  later() {
    const wait = WAITS[Math.min(this.tries++, WAITS.length - 1)];
    this.timer = setTimeout(() => this.flush(), wait * 1000 * (0.8 + 0.4 * Math.random()));
  }
}
