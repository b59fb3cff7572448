// Says where things stand: the prompt's beginning and what more of it there is, and on phones the card that is being read.

// Shows a prompt from its beginning, a chat from its last turn, and says where there is more of it.
export function watchPrompt(article) {
  const turns = article.querySelector(".turns");
  const last = turns.querySelector(".turn:last-child");
  const start = () => {
    const room = turns.clientHeight, most = turns.scrollHeight - room;
    const above = article.querySelector(".more.above");
    above.hidden = false; // It lies over the end of the turn before, not over the beginning of the last one.
    const top = last === turns.firstElementChild ? 0 : last.offsetTop - turns.firstElementChild.offsetTop - above.offsetHeight;
    turns.scrollTop = Math.min(top, most);
  };
  const more = () => {
    const below = turns.scrollHeight - turns.clientHeight - turns.scrollTop;
    article.querySelector(".more.above").hidden = turns.scrollTop < 4;
    article.querySelector(".more.below").hidden = below < 4;
  };
  start();
  more();
  turns.addEventListener("scroll", more, {passive: true});
  new ResizeObserver(more).observe(turns); // The observer ends with the element.
}

// What is wider than its card scrolls by keyboard too.
export function reachWide(article) {
  for (const node of article.querySelectorAll("math[display=block], .math.display, .untrusted:has(table)")) {
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }
}

export function turnOver(article, by) {
  const turns = article.querySelector(".turns");
  turns.scrollBy({top: by * 0.85 * turns.clientHeight});
}

// On a touch screen the card that is being read is the one that the rail's buttons speak of: told(card) when it is
// another one. Nothing follows within a moment of `rest()`: somebody has just gone to a card.
export function followReading(cards, told) {
  const touch = matchMedia("(pointer: coarse)");
  let resting = 0, asked = 0;
  const look = () => {
    asked = 0;
    if (performance.now() < resting) return;
    const middle = document.elementFromPoint(innerWidth / 2, innerHeight * 0.4)?.closest(".card");
    if (middle && cards()) told(Number(middle.dataset.card));
  };
  addEventListener("scroll", () => { if (touch.matches) asked ||= requestAnimationFrame(look); }, {passive: true, capture: true});
  return {touch, rest: () => (resting = performance.now() + 700)};
}

// What is scrolled to must not lie under the dock where that stays at the window's edge. (No scroll-padding: the page
// would move whenever somebody writes in the dock itself.)
export function keepClear(dock) {
  const measure = () => {
    const stays = getComputedStyle(dock).position === "sticky" && !dock.hidden;
    dock.parentElement.style.setProperty("--dock", stays ? `${dock.offsetHeight + 8}px` : ".5rem");
  };
  new ResizeObserver(measure).observe(dock);
  addEventListener("resize", measure);
}
