// Dash's check boxes and radio buttons call themselves a list of options, and its drop-down hides what takes the focus:
// a screen reader gets lost in both. Here they say what they are.
(function () {
  const NAMED = { "compare-signals": "Signals of the panels" };

  let waiting = false;

  function mend() {
    waiting = false;
    for (const each of document.querySelectorAll(".dash-checklist, .dash-radioitems, .dash-options-list-option")) {
      if (!each.closest(".dash-dropdown-content")) {
        each.removeAttribute("role"); // the native controls inside have names and states of their own
        each.removeAttribute("aria-selected");
      }
    }
    for (const each of document.querySelectorAll(".dash-dropdown-focus-target[aria-hidden]")) {
      const button = each.parentElement.querySelector("button[id]");
      each.removeAttribute("aria-hidden");
      each.setAttribute("aria-label", (button && NAMED[button.id]) || "Choose");
    }
  }

  // once a frame: while a figure is drawn thousands of elements change
  const watched = ["role", "aria-selected", "aria-hidden"];
  new MutationObserver(() => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(mend);
    }
  }).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: watched });
})();
