// Drags a letter to the rail, by mouse, pen or finger. Everything a drag does, buttons and keys do too.

const SLACK = 6; // A press counts as a drag from so many pixels on.

// drop(card, {slot} or {gap}) is called with numbers.
export function enableDrag(root, drop) {
  let held = null;

  const target = (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY);
    return under?.closest("[data-gap], [data-slot]") ?? null;
  };
  const mark = (node) => {
    root.querySelectorAll(".over").forEach((other) => other.classList.toggle("over", other === node));
    node?.classList.add("over");
  };
  const end = () => {
    held?.ghost?.remove();
    mark(null);
    document.documentElement.classList.remove("dragging");
    held = null;
  };

  root.addEventListener("pointerdown", (event) => {
    const source = event.target.closest("[data-drag]");
    if (!source || event.button !== 0) return;
    held = {card: Number(source.dataset.drag), x: event.clientX, y: event.clientY, id: event.pointerId, ghost: null};
  });
  addEventListener("pointermove", (event) => {
    if (!held || event.pointerId !== held.id) return;
    if (!held.ghost) {
      if (Math.hypot(event.clientX - held.x, event.clientY - held.y) < SLACK) return;
      held.ghost = document.createElement("div");
      held.ghost.className = "ghost";
      held.ghost.textContent = String.fromCharCode(65 + held.card);
      root.append(held.ghost);
      document.documentElement.classList.add("dragging");
    }
    held.ghost.style.translate = `${event.clientX}px ${event.clientY}px`;
    mark(target(event));
  });
  addEventListener("pointerup", (event) => {
    if (!held || event.pointerId !== held.id) return;
    const {card, ghost} = held;
    const over = ghost && target(event);
    end();
    if (!ghost) return;
    // The click that belongs to a drag means nothing; one after another press (a finger's drag has none) counts.
    const listening = new AbortController();
    const {signal} = listening;
    addEventListener("click", (click) => click.stopPropagation(), {capture: true, signal});
    addEventListener("pointerdown", () => listening.abort(), {capture: true, signal});
    setTimeout(() => listening.abort(), 50);
    if (over) drop(card, over.dataset.gap ? {gap: Number(over.dataset.gap)} : {slot: Number(over.dataset.slot)});
  });
  addEventListener("pointercancel", end);
  addEventListener("keydown", (event) => event.key === "Escape" && end());
}
