// What a control says stands in the address, and what the address says in the control. All of it in the browser: on the
// way through the server, what somebody types meanwhile would be overwritten.
(function () {
  function read(text) {
    try {
      return decodeURIComponent(text.replace(/\+/g, " "));
    } catch {
      return text;
    }
  }

  // name: in the address; others that are left out when it changes; usual: the value that is not written there
  function bound({ name, without = [], usual, value_of = (texts) => texts }) {
    return function (value, search) {
      const { callback_context, no_update } = window.dash_clientside;
      const parts = (search || "").replace(/^\?/, "").split("&").filter(Boolean);
      const named = (part) => read(part.split("=")[0]);
      const said = parts.filter((part) => named(part) === name).map((part) => read(part.split("=").slice(1).join("=")));
      const moved = callback_context.triggered.some((each) => each.prop_id.endsWith(".value"));
      const wanted = [value === null || value === undefined ? [] : value].flat().map(String);
      const texts = wanted.filter((text) => text !== usual);
      if (JSON.stringify([...texts].sort()) === JSON.stringify([...said].sort())) {
        return [no_update, no_update];
      }
      if (!moved) {
        return [value_of(said), no_update];
      }
      const kept = parts.filter((part) => ![name, ...without].includes(named(part)));
      const all = [...kept, ...texts.map((text) => name + "=" + encodeURIComponent(text))].join("&");
      return [no_update, all ? "?" + all : ""];
    };
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_address: {
      filter: bound({ name: "filter", without: ["page"], usual: "", value_of: (texts) => texts[0] || "" }),
      signals: bound({ name: "signal" }),
      smooth: bound({ name: "mean", usual: "5", value_of: (texts) => Number(texts[0] || 5) }),
    },
  });
})();
