// Each tick becomes a pulse that tells the server whether the page is dark, whether it is narrow, and whether somebody
// points at a row; none while the tab is hidden. The tab's title says the stage, so that it can be read among twenty.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  lldwatch: {
    look: function () {
      return {
        dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
        narrow: window.matchMedia("(max-width: 900px)").matches,
      };
    },
    pulse: function (tick) {
      const badge = document.getElementById("stage-badge");
      document.title = badge ? badge.textContent + " · lldwatch" : "lldwatch";
      window.dash_clientside.lldwatch_run.listen();
      if (document.hidden && tick) {
        return window.dash_clientside.no_update;
      }
      const { look } = window.dash_clientside.lldwatch;
      return Object.assign({ tick: tick, held: window.dash_clientside.lldwatch_list.held() }, look());
    },
  },
});
