// A run's panels as a picture: their titles, which stand behind the figure in the page, are written into it. And what
// the reader does to their x axis.
(function () {
  // dash tells of the last change alone: in a busy browser what follows a zoom would hide it
  let heard = null;
  let moved = null;

  function of_x_axis(relayout) {
    return Object.keys(relayout || {}).some((key) => key.startsWith("xaxis.")) ? relayout : null;
  }

  function with_titles(plot) {
    const style = getComputedStyle(document.body);
    const whole = plot._fullLayout._size;
    const titles = [...document.querySelectorAll("#run-titles .panel-title")].map((title) => ({
      text: [...title.children].map((part) => part.textContent).filter(Boolean).join(" · "),
      xref: "paper",
      yref: "paper",
      x: 0,
      y: 1 - (parseFloat(title.style.top) + 10 - whole.t) / whole.h,
      xanchor: "left",
      yanchor: "top",
      borderpad: 0,
      showarrow: false,
      font: { size: 12, color: style.color },
    }));
    return Object.assign({}, plot.layout, {
      annotations: [...(plot.layout.annotations || []), ...titles],
      paper_bgcolor: getComputedStyle(document.querySelector(".plots")).backgroundColor,
    });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_run: {
      listen: function () {
        const plot = document.querySelector("#run-figure .js-plotly-plot");
        if (plot && plot.on && plot !== heard) {
          heard = plot;
          moved = null;
          plot.on("plotly_relayout", (relayout) => (moved = of_x_axis(relayout) || moved));
        }
      },
      zoom: function (relayout) {
        const told = moved || of_x_axis(relayout);
        moved = null;
        return told || window.dash_clientside.no_update;
      },
      png: function (clicks) {
        const plot = document.querySelector("#run-figure .js-plotly-plot");
        if (!clicks || !plot || !window.Plotly) {
          return window.dash_clientside.no_update;
        }
        const name = document.querySelector("h1").textContent.replace(/[^\w.-]+/g, "-");
        const size = { width: plot._fullLayout.width, height: plot._fullLayout.height, scale: 2 };
        return window.Plotly.toImage({ data: plot.data, layout: with_titles(plot) }, { format: "png", ...size }).then(
          (url) => {
            const link = document.createElement("a");
            link.href = url;
            link.download = name + ".png";
            link.click();
            return "The picture is saved.";
          },
          () => "This browser cannot make the picture.",
        );
      },
    },
  });
})();
