// Measures how long each card was in view, and whether its beginning and its end have been seen. It stands still while the page is
// hidden, paused, or nobody has touched anything for a minute.

const IDLE_MS = 60_000;
const TICK_MS = 250;

export class Clock {
  constructor() {
    this.inView = new Set();
    this.touched = performance.now();
    this.paused = false;
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchmove"]) {
      addEventListener(kind, () => (this.touched = performance.now()), {passive: true, capture: true});
    }
    setInterval(() => this.tick(), TICK_MS);
  }

  // Count for this task from now on; `times` is its record, which goes into drafts and answers.
  watch(article, times) {
    this.observer?.disconnect();
    this.inView.clear();
    this.times = times;
    this.last = this.touched = performance.now();
    this.observer = new IntersectionObserver((entries) => entries.forEach((e) => this.note(e)), {
      threshold: [0, 0.25, 0.5, 1],
    });
    article?.querySelectorAll(".card, .edge").forEach((node) => this.observer.observe(node));
  }

  note(entry) {
    const card = Number(entry.target.closest(".card").dataset.card);
    if (entry.target.dataset.edge) {
      if (entry.isIntersecting) this.times.seen[`${card}${entry.target.dataset.edge}`] = 1;
      return;
    }
    const half = entry.intersectionRatio >= 0.5 || entry.intersectionRect.height >= 0.4 * innerHeight;
    if (entry.isIntersecting && half) this.inView.add(card);
    else this.inView.delete(card);
  }

  get running() {
    return !this.paused && document.visibilityState === "visible" && performance.now() - this.touched < IDLE_MS;
  }

  tick() {
    const now = performance.now();
    const seconds = Math.min((now - this.last) / 1000, 1);
    this.last = now;
    if (!this.times || !this.running) return;
    this.times.elapsed += seconds;
    for (const card of this.inView) this.times.dwell[card] += seconds;
  }
}

export const noTime = (cards) => ({elapsed: 0, dwell: Array(cards).fill(0), seen: {}});

// Returns the cards whose start or end has never been on the screen.
export const unseen = (times) =>
  times.dwell.flatMap((_, card) => (times.seen[`${card}start`] && times.seen[`${card}end`] ? [] : [card]));
