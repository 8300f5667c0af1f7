"use strict";
(() => {
  // Computations: nothing here depends on the page.

  const quantile = (ascending, share) => {
    const at = share * (ascending.length - 1);
    const low = Math.floor(at);
    const high = Math.min(low + 1, ascending.length - 1);
    return ascending[low] + (at - low) * (ascending[high] - ascending[low]);
  };

  // Single linkage as SciPy writes it: two clusters, the death that joins them, their joint size.
  const linkage = (edges, deaths) => {
    const n = deaths.length + 1;
    const cluster = Array.from({ length: 2 * n - 1 }, (_, k) => k);
    const size = Array(n).fill(1);
    const root = (k) => {
      while (cluster[k] !== k) k = cluster[k] = cluster[cluster[k]];
      return k;
    };
    return deaths.map((death, k) => {
      const [first, second] = edges[k].map(root).sort((a, b) => a - b);
      cluster[first] = cluster[second] = n + k;
      size.push(size[first] + size[second]);
      return [first, second, death, size[n + k]];
    });
  };

  // Neurons from left to right, so that no lines of the dendrogram cross.
  const leaves = (rows) => {
    const n = rows.length + 1;
    const found = [];
    const waiting = [2 * n - 2];
    while (waiting.length) {
      const k = waiting.pop();
      if (k < n) found.push(k);
      else waiting.push(rows[k - n][1], rows[k - n][0]);
    }
    return found;
  };

  // For each pair of joined clusters the place and the height of both, and the death that joins them.
  const brackets = (rows) => {
    const n = rows.length + 1;
    const place = Array(n);
    leaves(rows).forEach((k, at) => { place[k] = at; });
    const height = Array(n).fill(0);
    return rows.map(([first, second, death]) => {
      place.push((place[first] + place[second]) / 2);
      height.push(death);
      return [place[first], height[first], place[second], height[second], death];
    });
  };

  // |r| of each pair of drawn neurons, from bytes below the diagonal; 1 on it.
  const correlations = (text) => {
    const bytes = atob(text);
    return (i, j) => {
      if (i === j) return 1;
      const [low, high] = i < j ? [i, j] : [j, i];
      return bytes.charCodeAt((high * (high - 1)) / 2 + low) / 255;
    };
  };

  // Drawn neurons, as places in `drawn`, in the order of the tree on all neurons.
  const ordered = (rows, drawn) => {
    const place = new Map(drawn.map((neuron, k) => [neuron, k]));
    return leaves(rows).filter((neuron) => place.has(neuron)).map((neuron) => place.get(neuron));
  };

  const digits = (number, many = 2) => (number === null ? "not finite" : number.toFixed(many));

  globalThis.topoloss = { quantile, linkage, leaves, brackets, correlations, ordered };

  // The page. All text goes through textContent or attributes, so that no name acts as markup.

  const run = JSON.parse(document.getElementById("run").textContent);
  const at = (id) => document.getElementById(id);
  const say = (id, text) => { at(id).textContent = text; };
  const neurons = run.layers.flatMap(({ name, units }) => units.map((unit) => [name, unit]));
  const called = (k) => `${neurons[k][0]}[${neurons[k][1]}]`;

  const draw = (into, tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    into.appendChild(made);
    return made;
  };

  // The frame of a figure, in its own coordinates: data from 0 to 1 lie in it.
  const LEFT = 34, RIGHT = 330, TOP = 10, BOTTOM = 205;
  const x = (share) => LEFT + share * (RIGHT - LEFT);
  const y = (share) => BOTTOM - share * (BOTTOM - TOP);

  const axes = (svg, { across, up }, ticks) => {
    svg.textContent = "";
    draw(svg, "path", { class: "axis", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` });
    draw(svg, "text", { x: (LEFT + RIGHT) / 2, y: 237, "text-anchor": "middle" }, across);
    draw(svg, "text", { x: 10, y: 157, transform: "rotate(-90 10 157)", "text-anchor": "middle" }, up);
    for (const [share, text] of ticks.across || []) {
      draw(svg, "text", { x: x(share), y: BOTTOM + 14, "text-anchor": "middle" }, text);
    }
    for (const [share, text] of ticks.up || []) {
      draw(svg, "text", { x: LEFT - 4, y: y(share) + 4, "text-anchor": "end" }, text);
    }
  };
  const UNIT = [[0, "0"], [0.5, "0.5"], [1, "1"]];

  const drawCorrelations = (canvas, { rows, correlation }) => {
    const order = ordered(rows, run.drawn);
    const ink = canvas.getAttribute("data-ink").split(",").map(Number);
    const n = order.length;
    canvas.width = canvas.height = n;
    const context = canvas.getContext("2d");
    const image = context.createImageData(n, n);
    order.forEach((i, row) => order.forEach((j, column) => {
      image.data.set([...ink, Math.round(255 * correlation(i, j))], 4 * (row * n + column));
    }));
    context.putImageData(image, 0, 0);
    canvas.onclick = (event) => {
      const place = (offset, length) => order[Math.min(n - 1, Math.floor((offset / length) * n))];
      const i = place(event.offsetY, canvas.clientHeight);
      const j = place(event.offsetX, canvas.clientWidth);
      const [first, second] = [i, j].map((k) => called(run.drawn[k]));
      say("pointed", `${first} and ${second}: |r| = ${digits(correlation(i, j))}`);
    };
  };

  const drawHistory = (svg, chosen) => {
    const epochs = run.snapshots.map((each) => each.epoch);
    const first = epochs[0], last = epochs[epochs.length - 1];
    const across = (epoch) => x(last > first ? (epoch - first) / (last - first) : 0.5);
    const line = (share) => run.snapshots.map(
      (each) => `${across(each.epoch)} ${y(quantile(each.deaths, share))}`);
    const band = (low, high) => `M${line(low).concat(line(high).reverse()).join("L")}Z`;
    const ends = last > first ? [[0, first], [1, last]] : [[0.5, first]];
    axes(svg, { across: "epoch", up: "death" }, { across: ends, up: UNIT });
    draw(svg, "path", { class: "wide", d: band(0.05, 0.95) });
    draw(svg, "path", { class: "half", d: band(0.25, 0.75) });
    draw(svg, "path", { class: "now", d: `M${line(0.5).join("L")}` });
    const here = across(chosen.epoch);
    draw(svg, "path", { class: "axis", d: `M${here} ${TOP}V${BOTTOM}` });
    draw(svg, "circle", { cx: here, cy: y(quantile(chosen.deaths, 0.5)), r: 4 });
  };

  const drawBarcode = (svg, before, chosen) => {
    axes(svg, { across: "1 - |r|", up: "neurons" }, { across: UNIT });
    const bars = (deaths) => deaths.map((death, k) => {
      const row = BOTTOM - ((k + 0.5) / (deaths.length + 1)) * (BOTTOM - TOP);
      return `M${LEFT} ${row}H${x(death)}`;
    }).join("");
    const thick = Math.min(4, 150 / neurons.length);
    draw(svg, "path", { class: "now", "stroke-width": thick, d: bars(chosen.deaths) });
    // The first epoch is a staircase of the ends of its bars, so that both epochs can be seen.
    const height = (BOTTOM - TOP) / neurons.length;
    const stairs = before.deaths.map((death, k) => `H${x(death)}V${BOTTOM - (k + 1) * height}`);
    draw(svg, "path", { class: "before", "stroke-width": 2, d: `M${LEFT} ${BOTTOM}${stairs.join("")}` });
    const never = TOP + (0.5 / neurons.length) * (BOTTOM - TOP);
    draw(svg, "path", { class: "now", d: `M${LEFT} ${never}H${RIGHT}m-5 -4l5 4l-5 4` });
  };

  const drawDiagram = (svg, before, chosen) => {
    axes(svg, { across: "birth", up: "death" }, { across: UNIT, up: UNIT });
    draw(svg, "path", { class: "before", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` });
    const points = (deaths, shift, name) => deaths.forEach((death) => {
      draw(svg, "circle", { class: name, cx: x(0) + shift, cy: y(death), r: 3, "fill-opacity": 0.4 });
    });
    // Side by side, as the later points would hide the earlier ones.
    points(before.deaths, 12, "before");
    points(chosen.deaths, 0, "point");
    draw(svg, "circle", { class: "never", cx: x(0), cy: y(1.03), r: 3 });
    draw(svg, "text", { x: x(0) + 20, y: 8, "text-anchor": "start" }, "never dies");
  };

  const drawDendrogram = (svg, rows) => {
    axes(svg, { across: `${neurons.length} neurons, ordered by the tree`, up: "death" }, { up: UNIT });
    const across = (place) => x((place + 0.5) / neurons.length);
    const d = brackets(rows).map(([left, low, right, high, death]) =>
      `M${across(left)} ${y(low)}V${y(death)}H${across(right)}V${y(high)}`).join("");
    draw(svg, "path", { class: "now", "stroke-width": Math.min(1.5, 250 / neurons.length), d });
  };

  const layerPlaces = () => {
    const many = run.layers.length;
    return run.layers.flatMap(({ units }, column) => units.map((_, k) =>
      [x((column + 0.5) / many), y((k + 0.5) / units.length)]));
  };

  const drawTree = (svg, chosen) => {
    svg.textContent = "";
    const places = layerPlaces();
    chosen.edges.forEach(([i, j], k) => {
      const [[x1, y1], [x2, y2]] = [places[i], places[j]];
      const alike = Math.max(0.05, 1 - chosen.deaths[k]);
      draw(svg, "line", { class: "edge", "stroke-opacity": alike, x1, y1, x2, y2 });
    });
    for (const [cx, cy] of places) draw(svg, "circle", { class: "neuron", cx, cy, r: 2 });
    const every = Math.ceil(run.layers.length / 8);
    run.layers.forEach(({ name, units, of }, column) => {
      if (column % every) return;
      const short = name.length > 14 ? `${name.slice(0, 13)}…` : name;
      const left = x((column + 0.5) / run.layers.length);
      const text = draw(svg, "text", { x: left, y: BOTTOM + 14, "text-anchor": "middle" }, short);
      draw(text, "title", {}, `${name}: ${units.length} of ${of} neurons`);
    });
  };

  const listGroups = (chosen) => {
    const list = at("groups");
    list.textContent = "";
    const [groups, alike] = [chosen.groups, digits(1 - run.level)];
    const [i, j] = chosen.edges[0];
    const nearest = `${called(i)} and ${called(j)}, |r| = ${digits(1 - chosen.deaths[0], 3)}`;
    say("alike", groups.length
      ? `${groups.length} group${groups.length > 1 ? "s" : ""} joined by |r| of at least ${alike}:`
      : `No two neurons have |r| of at least ${alike}. Most alike are ${nearest}.`);
    for (const [representative, copies] of groups.slice(0, 20)) {
      const item = document.createElement("li");
      const some = copies.slice(0, 12).map(([k, r]) => `${called(k)} (r = ${digits(r)})`).join(", ");
      const more = copies.length > 12 ? ` and ${copies.length - 12} more` : "";
      item.textContent = `${called(representative)} is copied by ${some}${more}`;
      list.appendChild(item);
    }
    if (groups.length > 20) {
      const item = document.createElement("li");
      item.textContent = `and ${groups.length - 20} smaller groups`;
      list.appendChild(item);
    }
    const still = chosen.constant;
    const some = still.slice(0, 12).map(called).join(", ");
    const more = still.length > 12 ? ` and ${still.length - 12} more` : "";
    say("constant", still.length ? `Constant: ${some}${more}.` : "No neuron is constant.");
  };

  const seen = run.snapshots.map((each) => {
    const rows = linkage(each.edges, each.deaths);
    return { ...each, rows, correlation: correlations(each.correlations) };
  });
  const [before] = seen;

  const described = (each) => `${neurons.length} neurons, median death ${digits(quantile(each.deaths, 0.5))}`;

  const show = (k) => {
    const chosen = seen[k];
    const kept = chosen.epoch === run.kept ? ", whose weights were kept" : "";
    say("epoch-shown", `${chosen.epoch}${kept}`);
    at("epoch").setAttribute("aria-valuetext", `epoch ${chosen.epoch}`);
    say("notes", Object.entries(chosen.notes)
      .map(([name, value]) => `${name} ${digits(value, 4)}`).join(", "));
    say("now-shown", `epoch ${chosen.epoch}: ${described(chosen)}`);
    say("pointed", "");
    drawCorrelations(at("now"), chosen);
    drawHistory(at("history"), chosen);
    drawBarcode(at("barcode"), before, chosen);
    drawDiagram(at("diagram"), before, chosen);
    drawDendrogram(at("dendrogram"), chosen.rows);
    drawTree(at("tree"), chosen);
    listGroups(chosen);
  };

  const start = () => {
    const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
    const total = run.layers.reduce((sum, { of }) => sum + of, 0);
    const fewer = seen.length < run.recorded ? `${seen.length} of ` : "";
    const drawn = run.drawn.length < neurons.length
      ? `; correlations are drawn for ${run.drawn.length}` : "";
    say("about", `${neurons.length} of ${total} neurons in ${counted(run.layers.length, "layer")}${drawn}; `
      + `${fewer}${counted(run.recorded, "recorded epoch")}`
      + (run.finished ? "." : "; the recording has no end: training still runs or was interrupted."));
    say("before-shown", `epoch ${before.epoch}: ${described(before)}`);
    drawCorrelations(at("before"), before);
    const slider = at("epoch");
    const kept = seen.findIndex((each) => each.epoch === run.kept);
    slider.max = seen.length - 1;
    slider.value = kept < 0 ? seen.length - 1 : kept;
    slider.addEventListener("input", () => show(Number(slider.value)));
    show(Number(slider.value));
  };

  start();
})();
