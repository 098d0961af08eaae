// The list of runs: a row that is built anew keeps the focus, and rows stay in place while somebody points at them.
(function () {
  let focused = null;
  let moved_at = 0;
  document.addEventListener("focusin", (event) => {
    focused = event.target.id || null;
  });
  document.addEventListener("pointerdown", () => {
    focused = null;
  }, true);
  document.addEventListener("pointermove", () => {
    moved_at = Date.now();
  }, { passive: true });
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_list: {
      held: function () {
        const rows = "#run-list tbody";
        const pointed = Date.now() - moved_at < 3000 && document.querySelector(rows + ":hover");
        return Boolean(pointed || document.querySelector(rows + ":focus-within"));
      },
      keep_focus: function () {
        if (focused && document.activeElement === document.body) {
          const again = document.getElementById(focused);
          if (again) {
            again.focus({ preventScroll: true });
          }
        }
        return window.dash_clientside.no_update;
      },
    },
  });
})();
