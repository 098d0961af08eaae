// Each tick becomes a pulse that tells the server whether the page is dark, whether it is narrow, and whether somebody
// points at a row; none while the tab is hidden. The tab's title says the stage, so that it can be read among twenty.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  lldwatch: {
    pulse: function (tick) {
      const badge = document.getElementById("stage-badge");
      document.title = badge ? badge.textContent + " · lldwatch" : "lldwatch";
      if (document.hidden && tick) {
        return window.dash_clientside.no_update;
      }
      return {
        tick: tick,
        dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
        narrow: window.matchMedia("(max-width: 900px)").matches,
        held: window.dash_clientside.lldwatch_list.held(),
      };
    },
  },
});
