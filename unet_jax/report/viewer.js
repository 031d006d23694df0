// Puts the viewer together: controls, planes, surface and the table of lesions. Text from data goes in as text only.

const SPEED = {PageUp: 10, PageDown: -10, ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1};

function element(parent, tag, properties = {}, text = '') {
  const made = Object.assign(document.createElement(tag), properties);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function labelled(parent, text, tag, properties) {
  const label = element(parent, 'label');
  element(label, 'span', {}, text);
  return element(label, tag, properties);
}

function choice(parent, text, names, chosen) {  // a select; `names` may hold [heading, ...] of a group
  const select = labelled(parent, text, 'select'), groups = {};
  names.forEach((name, value) => {
    const [head, option] = Array.isArray(name) ? name : ['', name];
    if (head && !groups[head]) groups[head] = element(select, 'optgroup', {label: head});
    element(groups[head] || select, 'option', {value}, option);
  });
  select.addEventListener('change', () => chosen(Number(select.value)));
  return select;
}

function start(root) {
  const packed = [...root.querySelectorAll('script.case')], index = JSON.parse(root.querySelector('.index').textContent);
  const s = {show: {reference: true, prediction: true, errors: false, uncertainty: false, head: true}, opacity: 0.3,
             turn: {yaw: 0.6, pitch: 0.35, zoom: 1}, region: -1, meshes: [], drag: 'cross'};
  const bar = element(root, 'div', {className: 'bar'});
  const cases = choice(bar, 'Case', index.map(entry => [entry.kind, entry.label]), number => open(number));
  const tools = element(bar, 'div', {className: 'tools'});
  const planes = element(root, 'div', {className: 'planes'});
  const told = element(root, 'p', {className: 'told'}), legend = element(root, 'div', {className: 'legend'});
  const lesions = element(root, 'div', {className: 'lesions'});
  let c, views = [], gpu = null, due = false, opened = 0;

  // --- a case ---
  async function open(number) {
    const mine = ++opened;
    root.removeAttribute('data-ready');
    told.textContent = 'Unpacking…';
    const meta = JSON.parse(packed[number].textContent), [X, Y, Z] = meta.shape;
    const head = await bits(meta.head, X * Y * Z);
    const made = {...meta, head, flat: Z === 1};
    for (const name of ['reference', 'prediction']) {
      if (meta[name]) made[name] = await bitSets(meta[name], meta.bytes);
    }
    if (meta.uncertainty) {
      made.uncertainty = await Promise.all(meta.uncertainty.map(text => greys(text, 2 * meta.step, meta.shape, head)));
    }
    if (mine !== opened) return;  // another was chosen meanwhile
    c = made;
    Object.assign(s, {zoom: 1, centre: c.shape.map(n => n / 2), meshes: [], windows: {}, unpacked: {},
                      at: c.start, sequence: c.colour ? -1 : 0, region: s.region < c.regions.length ? s.region : -1});
    build();
    await sequence(s.sequence);
    if (gpu && !c.flat) {
      const meshes = [];
      for (const part of c.meshes) meshes.push(await mesh(gpu, part, c));
      if (mine !== opened) return;
      s.meshes = meshes;
    }
    redraw();
    root.dataset.ready = c.name;
  }

  async function sequence(number) {  // -1: red, green and blue together
    const unpack = k => (s.unpacked[k] ||= greys(c.sequences[k].data, c.step, c.shape, c.head));
    const held = c, volumes = await Promise.all(number < 0 ? [0, 1, 2].map(unpack) : [unpack(number)]);
    if (held !== c) return;
    s.greys = volumes;
    s.sequence = number;
    [s.low, s.high] = s.windows[number] || c.sequences[Math.max(0, number)].window;
    redraw();
  }

  function windowed(low, high) {  // in steps of the packed grey values
    [s.low, s.high] = s.windows[s.sequence] = [Math.min(low, high - 1), high];
    redraw();
  }

  function go(at) {
    s.at = at.map((n, a) => Math.max(0, Math.min(c.shape[a] - 1, n)));
    for (const {plane, canvas} of views.filter(view => view.plane && s.zoom > 1)) {  // keep it in sight
      const g = geometry(canvas, plane, c, s), half = {u: canvas.width / 2 / g.ku, v: canvas.height / 2 / g.kv};
      for (const k of 'uv') {
        if (Math.abs(s.at[plane[k]] + 0.5 - s.centre[plane[k]]) > half[k]) s.centre[plane[k]] = s.at[plane[k]] + 0.5;
      }
    }
    redraw();
  }

  function zoom(factor, around = s.at.map(n => n + 0.5)) {
    const now = Math.max(1, Math.min(32, s.zoom * factor)), share = s.zoom / now;
    s.centre = now === 1 ? c.shape.map(n => n / 2) : s.centre.map((n, a) => around[a] + (n - around[a]) * share);
    s.zoom = now;
    redraw();
  }

  // --- the page ---
  function build() {
    for (const part of [tools, planes, lesions]) part.replaceChildren();
    buildTools();
    views = (c.flat ? PLANES.slice(0, 1) : PLANES).map(plane => buildPlane(plane));
    planes.classList.toggle('flat', c.flat);
    if (!c.flat) views.push(buildSurface());
    buildLesions();
  }

  function buildTools() {
    const names = c.sequences.map(entry => entry.name);
    const select = choice(tools, 'Sequence', c.colour ? ['colour', ...names] : names,
                          number => sequence(number - (c.colour ? 1 : 0)));
    select.className = 'sequence';
    if (c.regions.length > 1) {
      const regions = choice(tools, 'Region', ['all', ...c.regions], number => { s.region = number - 1; redraw(); });
      regions.value = s.region + 1;
      regions.className = 'region';
    }
    const boxes = element(tools, 'fieldset');
    element(boxes, 'legend', {}, 'Show');
    const kinds = {reference: c.reference, prediction: c.prediction, errors: c.reference && c.prediction,
                   uncertainty: c.uncertainty, head: !c.flat && c.meshes.some(part => part.of === 'head')};
    for (const name of Object.keys(kinds).filter(key => kinds[key])) {
      const box = labelled(boxes, name === 'head' ? 'head (3-D)' : name, 'input',
                           {type: 'checkbox', checked: s.show[name], name});
      box.addEventListener('change', () => { s.show[name] = box.checked; redraw(); });
    }
    const slider = (text, properties, act) => {
      const input = labelled(tools, text, 'input', {type: 'range', ...properties});
      input.addEventListener('input', () => act(Number(input.value)));
      return input;
    };
    slider('Opacity', {min: 0, max: 1, step: 0.05, value: s.opacity}, n => { s.opacity = n; redraw(); });
    s.sliders = {
      level: slider('Level', {min: 0, max: 255}, n => windowed(n - (s.high - s.low) / 2, n + (s.high - s.low) / 2)),
      width: slider('Window', {min: 1, max: 255}, n => windowed((s.high + s.low - n) / 2, (s.high + s.low + n) / 2))};
    const button = (text, title, act) => element(tools, 'button', {type: 'button', title}, text)
      .addEventListener('click', act);
    button('Auto', 'Window from the 0.5th to the 99.5th percentile',
           () => windowed(...c.sequences[Math.max(0, s.sequence)].window));
    const drag = choice(tools, 'Drag', ['crosshair', 'window', 'view'],
                        number => { s.drag = ['cross', 'window', 'pan'][number]; });
    drag.value = ['cross', 'window', 'pan'].indexOf(s.drag);
    button('+', 'Zoom in', () => zoom(1.5));
    button('−', 'Zoom out', () => zoom(1 / 1.5));
    button('1:1', 'Whole picture', () => zoom(0));
  }

  function frame(name, help) {
    const figure = element(planes, 'div', {className: 'plane'});
    const canvas = element(figure, 'canvas', {tabIndex: 0});
    canvas.setAttribute('role', 'application');
    canvas.setAttribute('aria-label', `${name}. ${help}`);
    if (c.flat) figure.style.aspectRatio = `${c.shape[0] * c.spacing[0]} / ${c.shape[1] * c.spacing[1]}`;
    new ResizeObserver(redraw).observe(canvas);
    return {figure, canvas};
  }

  function buildPlane(plane) {
    const help = c.flat ? 'Arrow keys move the crosshair, plus and minus zoom.'
      : 'Arrow keys change the slice, with shift they move the crosshair, plus and minus zoom.';
    const {figure, canvas} = frame(c.flat ? 'Image' : `${plane.name} plane`, help);
    const move = (axis, by) => go(s.at.map((n, a) => a === axis ? n + by : n));
    canvas.dataset.plane = plane.name.toLowerCase();
    let from = null;
    canvas.addEventListener('contextmenu', event => event.preventDefault());
    canvas.addEventListener('pointerdown', event => {
      const how = event.button === 2 || event.shiftKey ? 'window' : event.button === 1 || event.altKey ? 'pan' : s.drag;
      from = {how, x: event.clientX, y: event.clientY, low: s.low, high: s.high, centre: [...s.centre]};
      canvas.setPointerCapture(event.pointerId);
      if (how === 'cross') go(voxelAt(canvas, plane, c, s, event));
    });
    canvas.addEventListener('pointermove', event => {
      if (!from) return tell(voxelAt(canvas, plane, c, s, event));
      const dx = event.clientX - from.x, dy = event.clientY - from.y;
      if (from.how === 'cross') return go(voxelAt(canvas, plane, c, s, event));
      if (from.how === 'window') {
        const level = (from.low + from.high) / 2 - dy / 2, wide = Math.max(1, from.high - from.low + dx);
        return windowed(level - wide / 2, level + wide / 2);
      }
      const g = geometry(canvas, plane, c, s), ratio = canvas.width / canvas.clientWidth;
      s.centre[plane.u] = from.centre[plane.u] - dx * ratio / g.ku;
      s.centre[plane.v] = from.centre[plane.v] - dy * ratio / g.kv;
      redraw();
    });
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { from = null; });
    canvas.addEventListener('pointerleave', () => tell(s.at));
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      if (!c.flat && !event.ctrlKey) return move(plane.w, -Math.sign(event.deltaY));
      zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, voxelAt(canvas, plane, c, s, event).map(n => n + 0.5));
    }, {passive: false});
    canvas.addEventListener('keydown', event => {
      const by = SPEED[event.key], vertical = event.key === 'ArrowUp' || event.key === 'ArrowDown';
      if (by && (event.shiftKey || c.flat)) {  // on the screen: down is towards larger v
        move(vertical ? plane.v : plane.u, vertical || Math.abs(by) > 1 ? -by : by);
      } else if (by) move(plane.w, by);
      else if (event.key === '+' || event.key === '=') zoom(1.5);
      else if (event.key === '-') zoom(1 / 1.5);
      else return;
      event.preventDefault();
    });
    if (c.flat) return {plane, canvas};
    const slider = element(figure, 'input', {type: 'range', min: 0, max: c.shape[plane.w] - 1});
    slider.setAttribute('aria-label', `${plane.name} slice`);
    slider.addEventListener('input', () => move(plane.w, Number(slider.value) - s.at[plane.w]));
    return {plane, canvas, slider};
  }

  function buildSurface() {
    const {figure, canvas} = frame('Surface', 'Arrow keys turn it, plus and minus zoom.');
    canvas.dataset.plane = 'surface';
    gpu = renderer(canvas);
    if (!gpu) {
      canvas.remove();
      element(figure, 'p', {className: 'none'}, 'No WebGL in this browser, so no 3-D surface; the planes and the '
        + 'pictures below show the same.');
      return {};
    }
    const turn = (x, y) => {
      s.turn.yaw -= x;
      s.turn.pitch = Math.max(-1.57, Math.min(1.57, s.turn.pitch + y));
      redraw();
    };
    canvas.addEventListener('pointerdown', event => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener('pointermove', event => {
      if (event.buttons) turn(event.movementX / 150, event.movementY / 150);
    });
    const nearer = factor => { s.turn.zoom = Math.max(0.5, Math.min(8, s.turn.zoom * factor)); redraw(); };
    canvas.addEventListener('wheel', event => { event.preventDefault(); nearer(event.deltaY < 0 ? 1.1 : 1 / 1.1); },
                            {passive: false});
    canvas.addEventListener('keydown', event => {
      const ways = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1]};
      if (ways[event.key]) turn(...ways[event.key]);
      else if ('+=-'.includes(event.key)) nearer(event.key === '-' ? 1 / 1.2 : 1.2);
      else return;
      event.preventDefault();
    });
    return {canvas};
  }

  function buildLesions() {
    if (!c.lesions.length) return element(lesions, 'p', {}, 'No lesion in the reference or the prediction.');
    const table = element(lesions, 'table'), head = element(element(table, 'thead'), 'tr');
    const area = c.flat ? `area, ${c.unit}²` : 'ml';
    for (const text of ['Lesion', 'Found?', `Reference, ${area}`, `Prediction, ${area}`, 'Dice', `Centre, ${c.unit}`]) {
      element(head, 'th', {scope: 'col'}, text);
    }
    const body = element(table, 'tbody');
    for (const lesion of c.lesions) {
      const row = element(body, 'tr'), first = element(row, 'th', {scope: 'row'});
      first.style.setProperty('--ink', c.colours[lesion.region]);
      row.dataset.voxel = fileVoxel(lesion.at);
      element(first, 'button', {type: 'button', title: 'Show the place'}, lesion.name);
      for (const text of [lesion.state, lesion.reference, lesion.prediction, lesion.dice, place(lesion.at)]) {
        element(row, 'td', {}, text);
      }
      row.addEventListener('click', () => {
        for (const other of body.children) other.toggleAttribute('aria-current', other === row);
        go(lesion.at);
      });
    }
    element(lesions, 'p', {className: 'small'}, c.note);
  }

  // --- words ---
  const apply = (matrix, at) => matrix.map(row => at.reduce((sum, n, a) => sum + row[a] * n, row[3]));
  const fileVoxel = at => apply(c.file, at).map(Math.round).slice(0, c.flat ? 2 : 3).join(',');
  const place = at => apply(c.world, at).slice(0, c.flat ? 2 : 3).map((n, a) =>
    c.letters ? `${c.letters[a][n < 0 ? 0 : 1]} ${Math.abs(n).toFixed(1)}` : n.toFixed(c.unit === 'mm' ? 1 : 0)).join(', ');

  function tell(at) {
    const i = at[0] + c.shape[0] * (at[1] + c.shape[1] * at[2]);
    const numbers = [0, 1, 2].slice(0, s.greys.length).map(k => {
      const {low, high} = c.sequences[s.sequence < 0 ? k : s.sequence], value = low + s.greys[k][i] / 255 * (high - low);
      return c.head[i] ? Number(value.toPrecision(3)).toLocaleString('en') : 'outside';
    });
    const within = set => c.regions.filter((_, r) => set[i] >>> r & 1).join(' ') || 'none';
    const words = [`${place(at)} ${c.unit}`, `voxel ${fileVoxel(at)}`.replace('voxel', c.flat ? 'pixel' : 'voxel'),
                   `${s.sequence < 0 ? 'colour' : c.sequences[s.sequence].name} ≈ ${numbers.join(', ')}`];
    for (const name of ['reference', 'prediction']) if (c[name]) words.push(`${name}: ${within(c[name])}`);
    if (c.uncertainty) {
      words.push('uncertainty: ' + c.regions.map((name, r) => `${name} ${Math.round(c.uncertainty[r][i] / 2.55)}`).join(' '));
    }
    told.textContent = words.join(' · ');
  }

  function explain() {  // what lines and colours mean, of what is shown
    legend.replaceChildren();
    const entry = (colour, style, text) => {
      const item = element(legend, 'span', {className: style}, text);
      item.style.setProperty('--ink', colour);
    };
    const chosen = c.regions.map((name, r) => [name, r]).filter(([, r]) => s.region < 0 || s.region === r);
    if (s.show.reference && c.reference || s.show.prediction && c.prediction) {
      for (const [name, r] of chosen) entry(c.colours[r], 'region', name);
      if (s.show.reference && c.reference) entry('', 'solid', 'reference');
      if (s.show.prediction && c.prediction) entry('', 'dashed', 'prediction');
    }
    if (s.show.errors && c.reference && c.prediction) {
      for (const [name, colour, kind] of ERRORS) entry(colour, {'': 'plain', '/': 'hatched', '.': 'dotted'}[kind], name);
    }
    if (s.show.uncertainty && c.uncertainty) entry(`rgb(${UNSURE})`, 'plain', 'uncertain');
  }

  function redraw() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (!s.greys) return;
      for (const {plane, canvas, slider} of views) {
        if (!canvas) continue;
        const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
        const [wide, high] = [box.width, box.height].map(n => Math.max(1, Math.round(n * ratio)));
        if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, {width: wide, height: high});
        if (plane) drawPlane(canvas, plane, c, s); else drawSurface(gpu, canvas, c, s);
        if (slider) slider.value = s.at[plane.w];
      }
      s.sliders.level.value = (s.low + s.high) / 2;
      s.sliders.width.value = s.high - s.low;
      root.dataset.voxel = fileVoxel(s.at);
      explain();
      tell(s.at);
    });
  }

  cases.value = 0;
  root.hidden = false;
  open(0);
}

for (const root of document.querySelectorAll('.viewer')) start(root);
