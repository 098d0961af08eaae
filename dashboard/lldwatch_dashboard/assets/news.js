// What is new on a page is laid into what it shows: see news.py, which says in what form it comes.
(function () {
  const TYPES = { i4: Int32Array, f4: Float32Array, f8: Float64Array };

  function numbers(packed) {
    const letters = atob(packed.bdata);
    const bytes = new Uint8Array(letters.length);
    for (let place = 0; place < letters.length; place++) {
      bytes[place] = letters.charCodeAt(place);
    }
    return new TYPES[packed.dtype](bytes.buffer);
  }

  function unpacked(value, arrays) {
    if (Array.isArray(value)) {
      return value.map((each) => unpacked(each, arrays));
    }
    if (value === null || typeof value !== "object") {
      return value;
    }
    if ("$array" in value) {
      return arrays[value.$array];
    }
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, unpacked(each, arrays)]));
  }

  function longer(old, first, tail) {
    if (Array.isArray(old)) {
      return old.slice(0, first).concat(Array.from(tail));
    }
    const whole = new old.constructor(first + tail.length);
    whole.set(old.subarray(0, first));
    whole.set(
      Array.from(tail, (number) => (number === null ? NaN : number)),
      first,
    );
    return whole;
  }

  function changed(old, change, arrays) {
    if (Array.isArray(change)) {
      const [first, tail] = change;
      return change.length === 1 ? unpacked(first, arrays) : longer(old, first, unpacked(tail, arrays));
    }
    const copy = Array.isArray(old) ? old.slice() : Object.assign({}, old);
    for (const [key, each] of Object.entries(change)) {
      if (Array.isArray(each) && !each.length) {
        delete copy[key];
      } else {
        copy[key] = changed(copy[key], each, arrays);
      }
    }
    return copy;
  }

  // a figure that takes another one's place keeps the ranges that the reader has chosen
  function with_view(figure, old) {
    const layout = Object.assign({}, figure.layout);
    for (const [name, axis] of Object.entries((old && old.layout) || {})) {
      if (/axis/.test(name) && layout[name]) {
        const kept = ["range", "autorange", "uirevision"].filter((key) => key in axis && !(key in layout[name]));
        layout[name] = Object.assign({}, layout[name], Object.fromEntries(kept.map((key) => [key, axis[key]])));
      }
    }
    return Object.assign({}, figure, { layout });
  }

  function all_of(news, arrays, states) {
    const content = unpacked(news.content, arrays);
    for (const place of Object.keys(content)) {
      if (news.keep_view && place.endsWith(".figure")) {
        content[place] = with_view(content[place], states[place]);
      }
    }
    return content;
  }

  function parts_of(news, arrays, states) {
    const content = {};
    for (const [place, change] of Object.entries(news.change)) {
      content[place] = changed(states[place], change, arrays);
    }
    return content;
  }

  function laid(news, states) {
    const arrays = news.arrays.map(numbers);
    const content = news.change ? parts_of(news, arrays, states) : all_of(news, arrays, states);
    for (const [place, change] of Object.entries(news.moves || {})) {
      content[place] = changed(content[place] || states[place], change, arrays);
    }
    return content;
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    lldwatch_news: {
      show: function (news) {
        const { outputs_list, states } = window.dash_clientside.callback_context;
        const places = outputs_list.map((output) => output.id + "." + output.property);
        const [shown, first] = places.slice(-2);
        const same = (one, other) => JSON.stringify(one || null) === JSON.stringify(other || null);
        // what came with the page counts as shown from the beginning; it is laid into it once
        const content = states[first] ? Object.assign(laid(states[first], states), { [first]: null }) : {};
        // news of what is not shown any more came too late; the next tick asks again
        if (news && same(news.before, states[shown])) {
          Object.assign(content, laid(news, Object.assign({}, states, content)), { [shown]: news.after });
        }
        return places.map((place) => (place in content ? content[place] : window.dash_clientside.no_update));
      },
    },
  });
})();
