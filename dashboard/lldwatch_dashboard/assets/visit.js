// Which page is opened, and how it is looked at. What only some pages need is fetched for them alone, and begins here,
// while the other scripts start: plotly.js, the largest one, and the grid of the responses page.
(function () {
  const SUITES = "/_dash-component-suites/";
  const PLOTLY = SUITES + "plotly/package_data/plotly.min.js";
  const GRAPH = SUITES + "dash/dcc/async-graph.js";
  const GRID = SUITES + "dash_ag_grid/dash_ag_grid.min.js";
  const fetched = {};

  function load(address) {
    fetched[address] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = resolve;
      script.onerror = () => {
        delete fetched[address];
        reject(new Error(address + " did not load"));
      };
      document.head.appendChild(script);
    });
    return fetched[address];
  }

  // dash draws once what stands in window.Plotly is there, and fetches it itself if nothing does
  function needs(pathname) {
    const page = pathname.split("/")[1];
    if (page && !window.Plotly) {
      const plotly = load(PLOTLY);
      window.Plotly = plotly;
      plotly.catch(() => (window.Plotly = undefined));
      load(GRAPH).catch(() => undefined); // dash would fetch it itself
    }
    return page === "responses" ? [load(GRID)] : [];
  }

  needs(window.location.pathname);
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_visit: {
      visit: function (pathname, search) {
        if (!pathname) {
          return window.dash_clientside.no_update;
        }
        const visit = Object.assign({ pathname, search }, window.dash_clientside.lldwatch.look());
        return Promise.allSettled(needs(pathname)).then(() => visit);
      },
    },
  });
})();
