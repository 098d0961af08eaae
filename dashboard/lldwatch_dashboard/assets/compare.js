// The comparison: a run's lines are highlighted from its row in the table, and the link to the page is copied.
(function () {
  let pinned = null;

  function base(meta) {
    return String(meta).endsWith(":raw") ? 0.28 : 1;
  }

  function highlight(lane) {
    const plot = document.querySelector("#compare-figure .js-plotly-plot");
    if (!plot || !plot.data || !window.Plotly) {
      return;
    }
    const opacity = plot.data.map((trace) => {
      const own = String(trace.meta).split(":")[0] === lane;
      return !lane || own ? base(trace.meta) : 0.1;
    });
    if (opacity.length) {
      window.Plotly.restyle(plot, { opacity: opacity });
    }
  }

  function lane_of(event) {
    const place = event.target.closest ? event.target.closest("[data-lane]") : null;
    return place && place.dataset.lane;
  }

  for (const name of ["pointerover", "focusin"]) {
    document.addEventListener(name, (event) => {
      const lane = lane_of(event);
      if (lane) {
        highlight(lane);
      }
    });
  }
  for (const name of ["pointerout", "focusout"]) {
    document.addEventListener(name, (event) => {
      if (lane_of(event)) {
        highlight(pinned);
      }
    });
  }
  document.addEventListener("click", (event) => {
    const lane = lane_of(event);
    if (lane) {
      pinned = pinned === lane ? null : lane;
      show_pinned();
      highlight(pinned || lane);
    }
  });

  function show_pinned() {
    document.querySelectorAll("[data-lane]").forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.lane === pinned));
    });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_compare: {
      share: function (clicks) {
        const link = window.location.href;
        if (!clicks) {
          return window.dash_clientside.no_update;
        }
        if (!navigator.clipboard) {
          return link; // not on a page that is neither https nor this machine's own
        }
        return navigator.clipboard.writeText(link).then(() => "The link is copied.", () => link);
      },
      refresh: function () {
        window.dash_clientside.lldwatch_list.keep_focus();
        show_pinned();
        if (pinned) {
          setTimeout(() => highlight(pinned), 200);
        }
        return window.dash_clientside.no_update;
      },
    },
  });
})();
