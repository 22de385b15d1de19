"use strict";

// The files beside the page call `report.pairs` and `report.pack`: from the disk a browser runs scripts, but reads no data.
const report = (() => {
  const index = JSON.parse(document.getElementById("index").textContent);
  const pairs = []; // all that are loaded, in the order of their table
  const $ = (id) => document.getElementById(id);
  const form = $("filters");
  const numbers = new Intl.NumberFormat("en");
  const whole = (value) => numbers.format(value);
  const short = (value) => (value === null ? "" : whole(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3))));
  const nameOf = (kind, number) => (number === null ? null : index.names[kind][number][0]);

  // An element; texts become text, never HTML.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function table(title, header, rows, isNumber = () => false) {
    const cell = (tag) => (content, place) => element(tag, { class: isNumber(place) ? "number" : null, scope: tag === "th" ? "col" : null }, content ?? "");
    return element(
      "table", {},
      title ? element("caption", {}, title) : null,
      element("thead", {}, element("tr", {}, ...header.map(cell("th")))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell("td"))))),
    );
  }

  // --- loading -----------------------------------------------------------------------------------------------------

  function load(name) {
    return new Promise((done, failed) => {
      const script = element("script", { src: name, onload: () => (script.remove(), done()), onerror: () => failed(name) });
      document.head.append(script);
    });
  }

  function problem(name) {
    if (typeof name !== "string") throw name; // a fault of ours: for the console
    $("problem").textContent = `${name} is not there (any more). If the report was written anew meanwhile, reload this page.`;
    $("problem").hidden = false;
  }

  function addPairs(columns) {
    const names = Object.keys(columns);
    for (let row = 0; row < columns.id.length; row += 1) {
      const pair = { number: pairs.length };
      for (const name of names) pair[name] = columns[name][row];
      pair.words = [...pair.captions, pair.text ?? ""].join("\n").toLowerCase();
      pairs.push(pair);
    }
  }

  const packs = new Map(); // name -> promise of its thumbnails; those used last stand last
  const arrived = new Map(); // name -> thumbnails of a script that has just run
  const MOST_PACKS = 64;
  const starts = [];
  index.packs.reduce((start, [, count]) => (starts.push(start), start + count), 0);

  function thumbnails(name) {
    let found = packs.get(name);
    if (found === undefined) {
      found = load(name).then(() => {
        const images = arrived.get(name);
        arrived.delete(name);
        return images;
      });
    }
    packs.delete(name);
    packs.set(name, found);
    if (packs.size > MOST_PACKS) packs.delete(packs.keys().next().value);
    return found;
  }

  // The place of a pair's thumbnail: the last pack that starts at it or before.
  function packOf(number) {
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= number) low = middle;
      else high = middle;
    }
    return [index.packs[low][0], number - starts[low]];
  }

  // A box that shows a pair's thumbnail, once it stays in sight for a moment. `alt` is empty where the caption stands beside it.
  function picture(pair, alt = pair.captions[0] ?? "without a caption") {
    const box = element("span", { class: "picture" });
    setTimeout(() => {
      if (!box.isConnected) return;
      const [name, place] = packOf(pair.number);
      thumbnails(name).then((images) => {
        const data = images[place];
        if (data.startsWith("!")) box.textContent = `no picture: ${data.slice(1)}`;
        else box.append(element("img", { src: `data:image/jpeg;base64,${data}`, alt }));
      }, problem);
    }, 40);
    return box;
  }

  // --- filters -----------------------------------------------------------------------------------------------------

  let chosen = pairs;

  function options(select, kind) {
    const all = element("option", { value: "" }, "all");
    const named = index.names[kind].map(([name, count], number) => [name, count, number]).sort((a, b) => b[1] - a[1]);
    select.replaceChildren(all, ...named.map(([name, count, number]) => element("option", { value: number }, `${name} (${whole(count)})`)));
  }

  function makeFilters() {
    options(form.reason, "reasons");
    for (const name of ["split", "origin", "licence"]) options(form[name], name);
    const hosts = index.names.host.toSorted((a, b) => b[1] - a[1]).slice(0, 500);
    $("hosts").replaceChildren(...hosts.map(([name, count]) => element("option", { value: name }, `${name} (${whole(count)})`)));
    const changed = Object.entries(index.changes.counts).filter(([kind]) => kind !== "removed");
    form.change.replaceChildren(
      element("option", { value: "" }, "all"),
      ...changed.map(([kind, count]) => element("option", { value: kind }, `${kind} (${whole(count)})`)),
    );
    form.order.replaceChildren(
      element("option", { value: "" }, "as in the table"),
      ...index.scores.flatMap((name, place) => [
        element("option", { value: `${place} 1` }, `${name}, lowest first`),
        element("option", { value: `${place} -1` }, `${name}, highest first`),
      ]),
    );
    $("ranges").replaceChildren(
      ...index.scores.flatMap((name, place) => [
        element("span", {}, name),
        element("input", { type: "number", step: "any", name: `from ${place}`, placeholder: "from", "aria-label": `${name} from` }),
        element("input", { type: "number", step: "any", name: `to ${place}`, placeholder: "to", "aria-label": `${name} to` }),
      ]),
    );
  }

  // What the form asks for, as a list of conditions.
  function conditions() {
    const asked = Object.fromEntries(new FormData(form));
    const found = [];
    const words = asked.words.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) found.push((pair) => words.every((word) => pair.words.includes(word)));
    if (asked.keep) found.push((pair) => String(pair.keep) === asked.keep);
    if (asked.reason) found.push((pair) => pair.reasons.includes(Number(asked.reason)));
    for (const name of ["split", "origin", "licence"]) {
      if (asked[name]) found.push((pair) => pair[name] === Number(asked[name]));
    }
    if (asked.host.trim()) {
      const part = asked.host.trim().toLowerCase();
      const hosts = new Set(index.names.host.flatMap(([name], number) => (name.includes(part) ? [number] : [])));
      found.push((pair) => hosts.has(pair.host));
    }
    if (asked.change) found.push((pair) => pair.changes.includes(asked.change));
    index.scores.forEach((_, place) => {
      const [from, to] = [asked[`from ${place}`], asked[`to ${place}`]];
      if (from) found.push((pair) => pair.scores[place] !== null && pair.scores[place] >= Number(from));
      if (to) found.push((pair) => pair.scores[place] !== null && pair.scores[place] <= Number(to));
    });
    return found;
  }

  function ordered(found) {
    if (!form.order.value) return found;
    const [place, sign] = form.order.value.split(" ").map(Number);
    // What has no such score comes last in either order.
    const value = (pair) => (pair.scores[place] === null ? Infinity : sign * pair.scores[place]);
    return found.toSorted((a, b) => value(a) - value(b) || a.number - b.number);
  }

  function choose(keepsPlace = false) {
    const asked = conditions();
    chosen = ordered(pairs.filter((pair) => asked.every((holds) => holds(pair))));
    const loading = pairs.length < index.pairs ? `, ${whole(index.pairs - pairs.length)} still loading` : "";
    const sample = index.pairs < index.of_pairs ? `, a sample of ${whole(index.of_pairs)}` : "";
    $("count").textContent = `${whole(chosen.length)} of ${whole(pairs.length)} pairs${loading}${sample}`;
    if (!keepsPlace) {
      $("results").scrollTop = 0;
      active = 0;
    }
    clearTiles();
    drawTiles();
  }

  // Shows in the gallery what one field of the form asks for, and nothing else.
  function showWhere(name, value) {
    form.reset();
    form[name].value = value;
    location.hash = "gallery";
    choose();
  }

  const whereButton = (name, value, text) => element("button", { type: "button", class: "link", onclick: () => showWhere(name, value) }, text);

  // --- the gallery: only the tiles that are in sight exist ---------------------------------------------------------

  const TILE_WIDTH = 212;
  const TILE_HEIGHT = 280;
  const tiles = new Map(); // place among the chosen -> its <li>
  let active = 0; // the place of the tile that the Tab key reaches
  let columns = 1;

  function verdict(pair) {
    const against = pair.reasons.map((number) => nameOf("reasons", number)).join(", ");
    return element("span", { class: pair.keep ? "verdict" : "verdict against" }, pair.keep ? `kept: ${nameOf("split", pair.split) ?? ""}` : `not kept: ${against}`);
  }

  function makeTile(place) {
    const pair = chosen[place];
    const button = element(
      "button", { type: "button", class: "tile", tabindex: place === active ? 0 : -1, onclick: () => ((active = place), showPair(pair)) },
      picture(pair, ""), element("span", { class: "caption" }, pair.captions[0] ?? ""), verdict(pair),
    );
    return element("li", { "aria-setsize": chosen.length, "aria-posinset": place + 1 }, button);
  }

  function clearTiles() {
    for (const tile of tiles.values()) tile.remove();
    tiles.clear();
  }

  function drawTiles() {
    const box = $("results");
    if (!box.clientWidth) return; // another view is shown
    const fitting = Math.max(1, Math.floor(box.clientWidth / TILE_WIDTH));
    if (fitting !== columns) clearTiles();
    columns = fitting;
    const width = box.clientWidth / columns;
    $("tiles").style.height = `${Math.ceil(chosen.length / columns) * TILE_HEIGHT}px`;
    const first = Math.max(0, Math.floor(box.scrollTop / TILE_HEIGHT) - 1) * columns;
    const end = Math.min(chosen.length, (Math.ceil((box.scrollTop + box.clientHeight) / TILE_HEIGHT) + 1) * columns);
    for (const [place, tile] of tiles) {
      if (place < first || place >= end) {
        tile.remove();
        tiles.delete(place);
      }
    }
    if (!$("tiles").contains(document.activeElement) && (active < first || active >= end)) active = first;
    for (let place = first; place < end; place += 1) {
      let tile = tiles.get(place);
      if (tile === undefined) {
        tile = makeTile(place);
        tiles.set(place, tile);
        $("tiles").append(tile);
      }
      tile.firstChild.tabIndex = place === active ? 0 : -1;
      Object.assign(tile.style, {
        left: `${(place % columns) * width}px`, top: `${Math.floor(place / columns) * TILE_HEIGHT}px`, width: `${width}px`, height: `${TILE_HEIGHT}px`,
      });
    }
  }

  function moveTo(place) {
    active = Math.min(Math.max(place, 0), chosen.length - 1);
    const box = $("results");
    const top = Math.floor(active / columns) * TILE_HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + TILE_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + TILE_HEIGHT - box.clientHeight;
    drawTiles();
    tiles.get(active)?.firstChild.focus({ preventScroll: true });
  }

  function onTileKey(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -chosen.length, End: chosen.length };
    if (event.key in steps) {
      event.preventDefault();
      moveTo(active + steps[event.key]);
    }
  }

  // --- one pair ----------------------------------------------------------------------------------------------------

  function side(pair) {
    const near = [pair.distance === null ? "" : `${pair.distance} bits`, pair.cosine === null ? "" : `cosine ${short(pair.cosine)}`].filter(Boolean);
    const nearest = near.length ? `; to the nearest ${near.join(", ")}` : "";
    return element(
      "button", { type: "button", class: "side", onclick: () => showPair(pair) },
      picture(pair), verdict(pair), element("span", {}, `${pair.width} × ${pair.height}${nearest}`),
    );
  }

  function facts(pair) {
    const rows = [
      ["kept", pair.keep ? `yes: ${nameOf("split", pair.split) ?? ""}` : "no"],
      ["against it", pair.reasons.map((number) => nameOf("reasons", number)).join(", ")],
      ...pair.captions.map((caption, place) => [pair.captions.length > 1 ? `caption ${place + 1}` : "caption", caption]),
      ["text", pair.text],
      ["size", `${pair.width} × ${pair.height}`],
      ["size as it came", pair.original_width === null ? "" : `${pair.original_width} × ${pair.original_height}`],
      ["origin", nameOf("origin", pair.origin)],
      ["licence", nameOf("licence", pair.licence)],
      ["URL", pair.url],
      ...index.scores.map((name, place) => [name, pair.scores[place] === null ? "" : String(pair.scores[place])]),
      ["nearly held out", pair.held_out.join(", ")],
      ["nearly in", pair.elsewhere.join(", ")],
      ["since the last report", pair.changes.join(", ")],
      ["image_id", pair.id],
      ["where it is from", `python -m sd_assets trace ${index.partition} ${pair.id}`],
    ];
    return element("div", { class: "facts" }, table("", ["what", "value"], rows.filter(([, value]) => value)));
  }

  function showPair(pair) {
    const dialog = $("pair");
    const place = chosen.indexOf(pair);
    const step = (by, text) =>
      element("button", { type: "button", disabled: place < 0 || !chosen[place + by] ? "" : null, onclick: () => (moveTo(place + by), showPair(chosen[place + by])) }, text);
    const near = pair.cluster === null ? [] : pairs.filter((other) => other.cluster === pair.cluster && other !== pair);
    const pressed = dialog.contains(document.activeElement) ? document.activeElement.textContent : null;
    dialog.replaceChildren(
      element("div", { class: "steps" }, step(-1, "Previous"), step(1, "Next"), element("button", { type: "button", onclick: () => dialog.close() }, "Close")),
      element("div", { class: "both" }, picture(pair), facts(pair)),
      ...(near.length ? [element("h2", {}, "Near-duplicates of it"), element("div", { class: "sides" }, ...near.map(side))] : []),
    );
    dialog.setAttribute("aria-label", `Pair ${pair.id}`);
    if (!dialog.open) dialog.showModal();
    // Whoever steps on by the keyboard can go on.
    const buttons = [...dialog.querySelectorAll(".steps button:enabled")];
    (buttons.find((button) => button.textContent === pressed) ?? buttons.at(-1)).focus();
    dialog.scrollTop = 0;
  }

  // --- the other views ---------------------------------------------------------------------------------------------

  const bar = (part, most) => {
    const made = element("span", { class: "bar" });
    made.style.width = `${(100 * part) / (most || 1)}%`;
    return element("div", { class: "bars" }, made);
  };

  function drawFunnel() {
    const most = Math.max(1, ...index.stages.map((stage) => stage.ok));
    const failures = (failed) => Object.entries(failed).map(([code, count]) => `${code} ${whole(count)}`).join(", ");
    const stages = index.stages.map((stage) => [stage.name, whole(stage.ok), bar(stage.ok, most), failures(stage.failed)]);
    const { pairs: judged, kept, splits, steps } = index.curation;
    stages.push(["kept", whole(kept), bar(kept, most), `${whole(judged - kept)} not kept`]);
    for (const [split, count] of Object.entries(splits)) stages.push([`– ${split}`, whole(count), bar(count, most), ""]);
    const numberOf = new Map(index.names.reasons.map(([name], number) => [name, number]));
    const against = steps.map((step) => [
      numberOf.has(step.reason) ? whereButton("reason", numberOf.get(step.reason), step.reason) : step.reason,
      whole(step.against), whole(step.alone), whole(step.lost), whole(step.left), bar(step.left, judged),
    ]);
    $("funnel").replaceChildren(
      element("h2", {}, "What is left after each stage"),
      table("Rows that are good, and those that failed by error code", ["table", "rows", "", "failed"], stages, (place) => place === 1),
      element("h2", {}, "What speaks against pairs"),
      against.length
        ? table(
          "A pair may have several reasons against it; it is lost by the first of them",
          ["reason", "against", "alone against", "lost here", "left", ""], against, (place) => place > 0 && place < 5,
        )
        : element("p", {}, "Nothing: every pair is kept."),
    );
  }

  const BINS = 32;
  const valuesOf = (some, place) => some.map((pair) => pair.scores[place]).filter((value) => value !== null).sort((a, b) => a - b);
  const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];

  function histogram(name, all, some) {
    // What lies far out is counted in the outermost bar.
    const [low, high] = [quantile(all, 0.005), quantile(all, 0.995)];
    const counts = (values) => {
      const found = new Array(BINS).fill(0);
      for (const value of values) found[Math.min(BINS - 1, Math.max(0, Math.floor(((value - low) / (high - low || 1)) * BINS)))] += 1;
      return found;
    };
    const [inAll, inChosen] = [counts(all), counts(some)];
    const most = Math.max(...inAll);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${BINS} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true"); // the numbers stand in the table
    for (const [kind, found] of [["all", inAll], ["chosen", inChosen]]) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", found.map((count, place) => `M${place + 0.05} 100v${(-100 * count) / most}h.9V100z`).join(""));
      svg.append(path);
    }
    return element("figure", {}, element("strong", {}, name), svg, element("figcaption", {}, `${short(low)} to ${short(high)}; median ${short(quantile(all, 0.5))}`));
  }

  function drawDistributions() {
    const shares = [0, 0.05, 0.5, 0.95, 1];
    const figures = [];
    const rows = [];
    index.scores.forEach((name, place) => {
      const all = valuesOf(pairs, place);
      if (!all.length) return;
      const some = valuesOf(chosen, place);
      figures.push(histogram(name, all, some));
      for (const [which, values] of [["all", all], ["chosen", some]]) {
        rows.push([name, which, whole(values.length), ...shares.map((share) => (values.length ? short(quantile(values, share)) : ""))]);
      }
    });
    $("distributions").replaceChildren(
      element("h2", {}, "Scores"),
      element("p", {}, `In front the ${whole(chosen.length)} pairs that the gallery's filters choose, behind them all ${whole(pairs.length)}.`),
      element("div", { id: "histograms" }, ...figures),
      element("h2", {}, "In numbers"),
      table("Quantiles", ["score", "of", "pairs", "least", "5 %", "median", "95 %", "most"], rows, (place) => place > 1),
    );
  }

  const CLUSTERS_AT_ONCE = 50;

  function drawDuplicates() {
    const groups = Map.groupBy(pairs.filter((pair) => pair.cluster !== null), (pair) => pair.cluster);
    const clusters = [...groups.values()].filter((group) => group.length > 1).sort((a, b) => b.length - a.length);
    for (const group of clusters) group.sort((a, b) => Number(b.keep) - Number(a.keep));
    const near = pairs.filter((pair) => pair.held_out.length || pair.elsewhere.length);
    const list = element("div", { id: "clusters" });
    const more = element("button", { type: "button", onclick: () => add() });
    const add = () => {
      const shown = list.childElementCount;
      list.append(
        ...clusters.slice(shown, shown + CLUSTERS_AT_ONCE).map((group) =>
          element("div", { class: "cluster" }, element("h3", {}, `${group.length} pictures`), element("div", { class: "sides" }, ...group.map(side)))),
      );
      const left = clusters.length - list.childElementCount;
      more.textContent = `Show more: ${whole(left)} clusters are left`;
      more.hidden = left === 0;
    };
    add();
    const others = near.slice(0, 200).map((pair) => [side(pair), [...pair.held_out, ...pair.elsewhere].join(", ")]);
    $("duplicates").replaceChildren(
      element("h2", {}, `${whole(clusters.length)} clusters of pictures that are nearly the same`), list, more,
      ...(near.length
        ? [element("h2", {}, `${whole(near.length)} pictures that are nearly ones to be kept out, or of other partitions`), table("The first 200", ["picture", "nearly"], others)]
        : []),
    );
  }

  function drawChanges() {
    const { since, counts } = index.changes;
    const parts = [element("h2", {}, "Since the last report")];
    if (since === null) parts.push(element("p", {}, "This is the first report: there is nothing to compare with."));
    else {
      parts.push(element("p", {}, `Compared with ${since}.`));
      const rows = Object.entries(counts).map(([kind, count]) => [kind === "removed" ? kind : whereButton("change", kind, kind), whole(count)]);
      parts.push(rows.length ? table("", ["change", "pairs"], rows, (place) => place === 1) : element("p", {}, "No pair has changed."));
    }
    $("changes").replaceChildren(...parts);
  }

  const views = { gallery: drawTiles, funnel: drawFunnel, distributions: drawDistributions, duplicates: drawDuplicates, changes: drawChanges };

  function showView() {
    const wanted = location.hash.slice(1);
    const name = wanted in views ? wanted : "gallery";
    for (const other of Object.keys(views)) $(other).hidden = other !== name;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    views[name]();
  }

  // --- starting ----------------------------------------------------------------------------------------------------

  async function start() {
    $("partition").textContent = index.partition;
    $("made-of").textContent = `Made of ${index.made_of}.`;
    makeFilters();
    let waiting = 0;
    form.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(choose, 120);
    });
    form.addEventListener("reset", () => setTimeout(choose));
    form.addEventListener("submit", (event) => event.preventDefault());
    $("results").addEventListener("scroll", drawTiles, { passive: true });
    $("tiles").addEventListener("keydown", onTileKey);
    new ResizeObserver(drawTiles).observe($("results"));
    addEventListener("hashchange", showView);
    const main = document.querySelector("main");
    main.setAttribute("aria-busy", "true");
    showView();
    for (const [number, name] of index.chunks.entries()) {
      await load(name);
      if (number === 0) choose();
    }
    if (index.chunks.length !== 1) choose(true);
    main.removeAttribute("aria-busy");
    if (!(location.hash.slice(1) in views)) return;
    showView(); // of all pairs now
  }

  setTimeout(() => start().catch(problem)); // once `report` is there
  return { pairs: addPairs, pack: (name, images) => arrived.set(name, images) };
})();
