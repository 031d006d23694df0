// The three planes of a volume that points left, posterior, inferior: radiological, the patient's right on the left.

const PLANES = [
  {name: 'Axial', u: 0, v: 1, w: 2, letters: 'ARPL'},  // top, left, bottom, right
  {name: 'Coronal', u: 0, v: 2, w: 1, letters: 'SRIL'},
  {name: 'Sagittal', u: 1, v: 2, w: 0, letters: 'SAIP'},
];
// Okabe and Ito's colours, and a texture of its own each, so that nothing hangs on colour alone
const ERRORS = [['agreed', '#009E73', ''], ['missed', '#E69F00', '/'], ['invented', '#56B4E9', '.']];
const UNSURE = [240, 228, 66];
const DASHES = [6, 4];

function geometry(canvas, plane, c, s) {  // where voxel edges (u, v) lie on a canvas: u * ku + ou, v * kv + ov
  const {u, v} = plane, mm = c.shape.map((n, a) => n * c.spacing[a]);
  const across = c.flat ? mm[0] : Math.max(mm[0], mm[1]), down = c.flat ? mm[1] : Math.max(mm[1], mm[2]);
  const scale = Math.min(canvas.width / across, canvas.height / down) * s.zoom;
  const ku = c.spacing[u] * scale, kv = c.spacing[v] * scale;
  return {ku, kv, ou: canvas.width / 2 - s.centre[u] * ku, ov: canvas.height / 2 - s.centre[v] * kv, scale};
}

function voxelAt(canvas, plane, c, s, event) {  // under the pointer, within the volume
  const box = canvas.getBoundingClientRect(), g = geometry(canvas, plane, c, s), at = [...s.at];
  const px = (event.clientX - box.left) * canvas.width / box.width;
  const py = (event.clientY - box.top) * canvas.height / box.height;
  const clamp = (value, a) => Math.max(0, Math.min(c.shape[a] - 1, Math.floor(value)));
  at[plane.u] = clamp((px - g.ou) / g.ku, plane.u);
  at[plane.v] = clamp((py - g.ov) / g.kv, plane.v);
  return at;
}

function slice(volume, c, plane, at) {  // (rows of v, columns of u) of the slice that the crosshair is on
  const {u, v, w} = plane, step = [1, c.shape[0], c.shape[0] * c.shape[1]];
  const wide = c.shape[u], high = c.shape[v], cut = new volume.constructor(wide * high);
  for (let j = 0, i = 0; j < high; j++) {
    for (let k = 0, p = at[w] * step[w] + j * step[v]; k < wide; k++, p += step[u]) cut[i++] = volume[p];
  }
  return cut;
}

function picture(wide, high, paint) {  // a canvas of one pixel a voxel; paint(i, bytes, 4 * i)
  const canvas = document.createElement('canvas');
  canvas.width = wide;
  canvas.height = high;
  const context = canvas.getContext('2d'), image = context.createImageData(wide, high);
  for (let i = 0; i < wide * high; i++) paint(i, image.data, 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

function outlines(inside, wide, high) {  // closed lines [x, y, x, y, ...] along the edges of voxels with inside(i)
  const next = new Map(), row = wide + 1, lines = [];
  const edge = (a, b) => { if (next.has(a)) next.get(a).push(b); else next.set(a, [b]); };
  for (let y = 0, i = 0; y < high; y++) {
    for (let x = 0; x < wide; x++, i++) {
      if (!inside(i)) continue;
      const corner = y * row + x;
      if (y === 0 || !inside(i - wide)) edge(corner, corner + 1);
      if (x === wide - 1 || !inside(i + 1)) edge(corner + 1, corner + row + 1);
      if (y === high - 1 || !inside(i + wide)) edge(corner + row + 1, corner + row);
      if (x === 0 || !inside(i - 1)) edge(corner + row, corner);
    }
  }
  while (next.size) {
    const start = next.keys().next().value, line = [];
    let at = start;
    do {
      line.push(at % row, Math.floor(at / row));
      const ways = next.get(at), to = ways.pop();
      if (!ways.length) next.delete(at);
      at = to;
    } while (at !== start);
    lines.push(line);
  }
  return lines;
}

function trace(context, lines, g) {
  context.beginPath();
  for (const line of lines) {
    context.moveTo(g.ou + line[0] * g.ku, g.ov + line[1] * g.kv);
    for (let i = 2; i < line.length; i += 2) context.lineTo(g.ou + line[i] * g.ku, g.ov + line[i + 1] * g.kv);
    context.closePath();
  }
}

function texture(context, colour, kind, ratio) {  // '' plain, '/' and '\' hatched, '.' dotted
  if (!kind) return colour;
  const tile = document.createElement('canvas'), n = tile.width = tile.height = Math.round(8 * ratio);
  const t = tile.getContext('2d');
  t.strokeStyle = t.fillStyle = colour;
  t.lineWidth = 2 * ratio;
  if (kind === '.') {
    t.arc(n / 2, n / 2, n / 3.5, 0, 7);
    t.fill();
  } else {
    const [a, b] = kind === '/' ? [n, 0] : [0, n];
    for (const shift of [-n, 0, n]) {
      t.moveTo(a + shift, 0);
      t.lineTo(b + shift, n);
    }
    t.stroke();
  }
  return context.createPattern(tile, 'repeat');
}

function drawPlane(canvas, plane, c, s) {
  const context = canvas.getContext('2d'), g = geometry(canvas, plane, c, s), {u, v} = plane;
  const wide = c.shape[u], high = c.shape[v], ratio = window.devicePixelRatio || 1;
  const put = (image, smooth) => {
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, g.ou, g.ov, wide * g.ku, high * g.kv);
  };
  context.globalAlpha = 1;
  context.fillStyle = '#000';
  context.fillRect(0, 0, canvas.width, canvas.height);
  const ramp = new Uint8ClampedArray(256).map((_, i) => i && 255 * (i - s.low) / Math.max(1, s.high - s.low));
  const shown = s.greys.map(volume => slice(volume, c, plane, s.at));  // one, or red, green and blue
  put(picture(wide, high, (i, to, p) => {
    for (let k = 0; k < 3; k++) to[p + k] = ramp[shown[k % shown.length][i]];
    to[p + 3] = 255;
  }), s.zoom * g.scale < 12 * ratio);

  const cut = name => c[name] && slice(c[name], c, plane, s.at);
  const reference = cut('reference'), prediction = cut('prediction');
  const chosen = s.region < 0 ? c.regions.map((_, r) => r) : [s.region];
  if (s.show.uncertainty && c.uncertainty) {
    const maps = chosen.map(r => slice(c.uncertainty[r], c, plane, s.at));
    put(picture(wide, high, (i, to, p) => {
      to.set(UNSURE, p);
      to[p + 3] = Math.max(...maps.map(map => map[i])) * Math.min(1, 1.6 * s.opacity);
    }), true);
  }
  const fill = (lines, style) => {
    trace(context, lines, g);
    context.globalAlpha = s.opacity;
    context.fillStyle = style;
    context.fill('evenodd');
    context.globalAlpha = 1;
  };
  const stroke = (lines, colour, dashes) => {
    trace(context, lines, g);
    context.lineJoin = 'round';
    for (const [style, width, dash] of [['#000', 2.8, []], [colour, 1.5, dashes]]) {  // a rim, for bright tissue
      context.strokeStyle = style;
      context.lineWidth = width * ratio;
      context.setLineDash(dash.map(n => n * ratio));
      context.stroke();
    }
    context.setLineDash([]);
  };
  if (s.show.errors && reference && prediction) {
    const any = chosen.reduce((set, r) => set | 1 << r, 0);
    const kinds = [i => reference[i] & prediction[i] & any && !((reference[i] ^ prediction[i]) & any),
                   i => reference[i] & ~prediction[i] & any,
                   i => prediction[i] & ~reference[i] & any && !(reference[i] & ~prediction[i] & any)];
    ERRORS.forEach(([, colour, kind], k) => {
      const lines = outlines(kinds[k], wide, high);
      fill(lines, texture(context, colour, kind, ratio));
      if (kind) stroke(lines, colour, []);
    });
  }
  const top = set => {  // of the chosen regions 1 + the smallest that each voxel is in, or 0
    const ranks = c.order.filter(r => chosen.includes(r));
    return set.map(value => ranks.reduce((found, r) => value >>> r & 1 ? r + 1 : found, 0));
  };
  const tops = {reference: reference && top(reference), prediction: prediction && top(prediction)};
  for (const r of c.order.filter(r => chosen.includes(r))) {
    for (const [name, set, kind] of [['reference', reference, ''], ['prediction', prediction, '\\']]) {
      if (!set || !s.show[name]) continue;
      if (!s.show.errors) {
        fill(outlines(i => tops[name][i] === r + 1, wide, high), texture(context, c.colours[r], kind, ratio));
      }
      stroke(outlines(i => set[i] >>> r & 1, wide, high), c.colours[r], kind ? DASHES : []);
    }
  }
  annotate(context, canvas, plane, c, s, g, ratio);
}

function annotate(context, canvas, plane, c, s, g, ratio) {  // crosshair, letters, slice, a line of known length
  const {u, v} = plane, [W, H] = [canvas.width, canvas.height], gap = 7 * ratio;
  const x = g.ou + (s.at[u] + 0.5) * g.ku, y = g.ov + (s.at[v] + 0.5) * g.kv;
  for (const [style, width] of [['#000', 3], ['#fff', 1]]) {
    context.strokeStyle = style;
    context.globalAlpha = style === '#000' ? 0.35 : 0.85;
    context.lineWidth = width * ratio;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, W, y], [x, 0, x, y - gap], [x, y + gap, x, H]]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
  context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  const note = (text, px, py, align, baseline) => {
    context.textAlign = align;
    context.textBaseline = baseline;
    context.lineWidth = 3 * ratio;
    context.strokeStyle = '#000';
    context.strokeText(text, px, py);
    context.fillStyle = '#fff';
    context.fillText(text, px, py);
  };
  const edge = 6 * ratio;
  if (!c.flat) {
    const [top, left, bottom, right] = plane.letters;
    note(top, W / 2, edge, 'center', 'top');
    note(left, edge, H / 2, 'left', 'middle');
    note(bottom, W / 2, H - edge, 'center', 'bottom');
    note(right, W - edge, H / 2, 'right', 'middle');
    note(`${plane.name} ${height(c, plane, s.at)} ${c.unit}`, edge, edge, 'left', 'top');
  }
  const length = [1000, 500, 200, 100, 50, 20, 10, 5, 2, 1].find(n => n * g.scale < W / 4);
  if (!length) return;
  context.fillStyle = '#fff';
  context.fillRect(W - edge - length * g.scale, H - edge - 2 * ratio, length * g.scale, 2 * ratio);
  note(`${length} ${c.unit}`, W - edge, H - edge - 4 * ratio, 'right', 'bottom');
}
