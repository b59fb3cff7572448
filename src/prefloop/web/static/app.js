// Every page shares this: colours without a reload, a question before leaving for another site, copying, waiting.
"use strict";
(() => {
  const next = { auto: "dark", dark: "light", light: "auto" };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("[data-theme-form]")) {
      event.preventDefault();
      const button = form.querySelector("button");
      const theme = button.value;
      document.cookie = `prefloop_theme=${theme}; path=/; max-age=31536000; samesite=lax`;
      document.documentElement.dataset.theme = theme;
      button.value = next[theme];
      button.setAttribute("aria-label", `Colours: ${theme}. Change`);
      button.lastChild.textContent = theme;
    }
  });

  // Links in what a model wrote lead anywhere: show the whole address first, and open it apart from this page.
  function leave(address) {
    const dialog = document.createElement("dialog");
    dialog.className = "leave";
    const title = document.createElement("h2");
    title.textContent = "Leave for another site?";
    title.id = "leave-title";
    dialog.setAttribute("aria-labelledby", title.id);
    const text = document.createElement("p");
    text.className = "secret";
    text.textContent = address;
    const go = document.createElement("button");
    go.textContent = "Open in a new tab";
    go.addEventListener("click", () => { dialog.close(); window.open(address, "_blank", "noopener,noreferrer"); });
    const stay = document.createElement("button");
    stay.className = "main";
    stay.textContent = "Stay here";
    stay.autofocus = true;
    stay.addEventListener("click", () => dialog.close());
    const actions = document.createElement("div");
    actions.className = "actions";
    actions.append(stay, go);
    dialog.append(title, text, actions);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  function onLink(event) {
    const link = event.target.closest?.(".untrusted a[href]");
    if (!link) return;
    event.preventDefault();
    leave(link.href);
  }
  document.addEventListener("click", onLink);
  document.addEventListener("auxclick", onLink);

  // What is wider than its card scrolls by keyboard too. (The ranking screen looks at each item itself.)
  for (const node of document.querySelectorAll(".untrusted :is(math[display=block], .math.display), .untrusted:has(table)")) {
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }

  // Figures that change while one looks: the part of the page that says [data-live] is fetched again every so many
  // seconds and put in place, unless somebody is in the middle of it; 0 is
  // never again. XMLHttpRequest parses without running anything.
  function lookAgain() {
    const live = document.querySelector("[data-live]");
    if (Number(live?.dataset.live)) setTimeout(() => refresh(live), 1000 * Number(live.dataset.live));
  }

  function refresh(live) {
    const selection = getSelection();
    const busy = live.contains(document.activeElement) || (!selection.isCollapsed && live.contains(selection.anchorNode));
    if (document.hidden || busy) return lookAgain();
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document";
    request.addEventListener("loadend", () => {
      const fresh = request.status === 200 && request.response?.querySelector("[data-live]");
      if (fresh) {
        const news = live.dataset.stamp && fresh.dataset.stamp !== live.dataset.stamp && fresh.dataset.news;
        // What somebody has opened or ticked meanwhile stays so.
        for (const node of live.querySelectorAll("details[id][open]")) fresh.querySelector(`#${CSS.escape(node.id)}`)?.setAttribute("open", "");
        for (const node of live.querySelectorAll("input[id]:checked")) fresh.querySelector(`#${CSS.escape(node.id)}`)?.setAttribute("checked", "");
        live.replaceWith(document.importNode(fresh, true));
        if (news) document.getElementById("status").textContent = news;
      }
      if (fresh || request.status === 0 || request.status >= 500) lookAgain(); // When signed out there is nothing more to see.
    });
    request.send();
  }
  lookAgain();

  // A file that the server would refuse is refused before it travels.
  document.addEventListener("change", (event) => {
    const most = Number(event.target.dataset?.most);
    if (!most || !event.target.files) return;
    const large = [...event.target.files].some((file) => file.size > most);
    event.target.setCustomValidity(large ? `This file is larger than ${most / 1e6} MB.` : "");
    event.target.reportValidity();
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const status = document.getElementById("status");
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      status.textContent = "Copied.";
    } catch {
      status.textContent = "Select the text and copy it yourself.";
    }
  });
})();
