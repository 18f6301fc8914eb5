const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "polyline", "polygon", "circle", "text"].includes(name);
  const node = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function corners(target) {
  const p = target.points;
  if (target.kind !== "bbox" || p.length !== 2) return p;
  return [p[0], [p[1][0], p[0][1]], p[1], [p[0][0], p[1][1]]];
}

const path = (points) => points.map((point) => point.join(",")).join(" ");
const within = (value, low, high) => Math.max(low, Math.min(value, high));

function arrow([ax, ay], [bx, by], size) {
  const length = Math.hypot(bx - ax, by - ay) || 1;
  const x = (bx - ax) / length * size, y = (by - ay) / length * size;
  const mx = (ax + bx) / 2, my = (ay + by) / 2;
  const points = [[mx + x, my + y], [mx - x / 2 - y * .8, my - y / 2 + x * .8], [mx - x / 2 + y * .8, my - y / 2 - x * .8]];
  return make("polygon", {class: "arrow", points: path(points)});
}

// Where a point's number stands: beside a corner, away from the middle of the object, and on a point of a line.
function numberPlaces(kind, points, size) {
  const [mx, my] = [0, 1].map((i) => points.reduce((sum, p) => sum + p[i], 0) / points.length);
  const places = points.map(([x, y], index) => {
    const away = kind === "line" ? 0 : size / (Math.hypot(x - mx, y - my) || 1);
    return {x: x + (x - mx) * away, y: y + (y - my) * away, index};
  });
  const wanted = places.filter(({index}) => points.length <= 12 || !index || index === points.length - 1);
  const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) >= 1.6 * size;
  return wanted.reduce((drawn, place) => drawn.every((other) => apart(place, other)) ? [...drawn, place] : drawn, []);
}

// A target without its label; the numbers' places are added to those that are taken.
function drawTarget(target, [width, height], unit, taken) {
  const points = corners(target).map(([x, y]) => [x / 1000 * width, y / 1000 * height]);
  const group = make("g", {class: `${target.kind} ${target.status}`});
  const shape = {line: "polyline", point: "circle"}[target.kind] ?? "polygon";
  const [cx, cy] = points[0];
  const place = target.kind === "point" ? {cx, cy, r: 4 * unit} : {points: path(points)};
  for (const name of ["casing", target.kind === "point" ? "stroke dot" : "stroke"]) {
    group.append(make(shape, {class: name, ...place}));
  }
  if (target.kind === "line") {
    for (let i = 1; i < points.length; i++) group.append(arrow(points[i - 1], points[i], 6 * unit));
  }
  if (!["bbox", "point"].includes(target.kind)) {
    const r = 5.5 * unit;
    for (const {x, y, index} of numberPlaces(target.kind, points, r)) {
      group.append(
        make("circle", {class: "dot", cx: x, cy: y, r}),
        make("text", {class: "number", x, y, "font-size": 8 * unit}, String(index + 1)));
      taken.push([x, y + .4 * 11 * unit, 0]);
    }
  }
  return group;
}

function label(target, [width, height], unit, taken) {
  const points = corners(target).map(([x, y]) => [x / 1000 * width, y / 1000 * height]);
  const words = [target.label, target.note].filter(Boolean).join(" · ");
  const size = 11 * unit, long = words.length * size * .56;
  const [x, y] = freePlace(target.kind, points, [long, size], [width, height], taken);
  return make("text", {class: "label", x, y, "font-size": size}, words);
}

// The left end of a label's baseline: above, below or beside the target, where nothing else is; else the first candidate.
function freePlace(kind, points, [long, size], [width, height], taken) {
  const side = (index, least) => Math[least](...points.map((p) => p[index]));
  const box = () => [side(0, "min"), side(0, "max") - long].flatMap((x) => [
    [x, side(1, "min") - .6 * size], [x, side(1, "max") + 1.4 * size], [x, side(1, "min") + 1.4 * size],
  ]);
  const around = ([x, y]) => [
    [x - long / 2, y - 1.7 * size], [x - long / 2, y + 2.5 * size], [x + 2.2 * size, y + .4 * size],
    [x - long - 2.2 * size, y + .4 * size],
  ];
  const spots = points.slice(0, 12).sort((a, b) => a[1] - b[1]);
  const places = (kind === "bbox" ? box() : spots.flatMap(around)).map(([x, y]) => [
    within(x, .4 * size, Math.max(width - long - .4 * size, .4 * size)),
    within(y, 1.2 * size, height - .4 * size),
  ]);
  const lines = Array.from({length: Math.floor(height / size / 1.6)}, (_, i) => [places[0][0], (i + 1) * 1.6 * size]);
  lines.sort((a, b) => Math.abs(a[1] - places[0][1]) - Math.abs(b[1] - places[0][1]));
  const free = [...places, ...lines].find(([x, y]) => !taken.some(([left, base, wide]) =>
    x < left + wide + size && left < x + long + size && Math.abs(base - y) < 1.5 * size));
  const [x, y] = free ?? places[0];
  taken.push([x, y, long]);
  return [x, y];
}

function drawView(view, panel) {
  const {width, height} = panel;
  const words = panel.targets.map((t) => [t.kind, t.label, t.note].filter(Boolean).join(" ")).join("; ");
  const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img"});
  svg.setAttribute("aria-label", words || "no targets");
  view.panel = panel;
  view.style.width = `min(100%, ${(75 * width / height).toFixed(2)}vh)`;
  view.replaceChildren(make("img", {src: panel.source, alt: panel.title, width, height}), svg);
  drawTargets(view);
}

// Labels and numbers have the same size on the screen for every size of the image.
function drawTargets(view) {
  const {width, height, targets} = view.panel, size = [width, height], taken = [];
  const cell = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--cell"));
  const unit = width / Math.min(cell, .75 * innerHeight * width / height);
  const groups = targets.map((target) => drawTarget(target, size, unit, taken));
  groups.forEach((group, index) => group.append(label(targets[index], size, unit, taken)));
  view.querySelector("svg").replaceChildren(...groups);
}

byId("size").addEventListener("input", (event) => {
  document.documentElement.style.setProperty("--cell", `${event.currentTarget.value}px`);
  for (const view of document.querySelectorAll(".view")) drawTargets(view);
});
