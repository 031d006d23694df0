// Puts the viewer together: cases, controls, planes and surface, and what keys, mouse and fingers do.

const SPEED = {PageUp: 10, PageDown: -10, ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1};

function start(root) {
  const packed = [...root.querySelectorAll('script.case')], index = JSON.parse(root.querySelector('.index').textContent);
  const s = {show: {reference: true, prediction: true, errors: false, uncertainty: false, head: true}, opacity: 0.3,
             turn: {yaw: 0.6, pitch: 0.35, zoom: 1}, region: -1, meshes: [], drag: 'cross'};
  const bar = element(root, 'div', {className: 'bar'});
  const cases = choice(bar, 'Case', index.map(entry => [entry.kind, entry.label]), number => open(number));
  const tools = element(bar, 'div', {className: 'tools'});
  const told = element(root, 'p', {className: 'told'}), planes = element(root, 'div', {className: 'planes'});
  const side = element(planes, 'div', {className: 'side'});
  const legend = element(side, 'div', {className: 'legend'}), lesions = element(side, 'div', {className: 'lesions'});
  const tell = at => { if (c && s.greys) told.textContent = describe(c, s, at); };
  let c, views = [], surface = null, gpu = null, due = false, opened = 0;

  // --- a case ---
  async function open(number) {
    const mine = ++opened;
    for (const name of ['ready', 'whole']) delete root.dataset[name];
    told.textContent = 'Unpacking…';
    const meta = JSON.parse(packed[number].textContent), [X, Y, Z] = meta.shape;
    const head = await bits(meta.head, X * Y * Z);
    const made = {...meta, head, flat: Z === 1, uncertainty: null};
    for (const name of ['reference', 'prediction']) {
      if (meta[name]) made[name] = await bitSets(meta[name], meta.bytes);
    }
    if (mine !== opened) return;  // another was chosen meanwhile
    for (const part of s.meshes) [part.places, part.normals, part.faces, part.lines].forEach(b => gpu.gl.deleteBuffer(b));
    c = made;
    Object.assign(s, {zoom: 1, centre: c.shape.map(n => n / 2), meshes: [], windows: {}, unpacked: {}, greys: null,
                      at: c.start, sequence: c.shown ?? (c.colour ? -1 : 0), region: s.region < c.regions.length ? s.region : -1});
    build(meta);
    await sequence(s.sequence);
    if (mine !== opened) return;
    draw();
    root.dataset.ready = c.name;  // what follows is added to a picture that is there
    for (const part of gpu && !c.flat ? made.meshes : []) {
      const surface = await mesh(gpu, part, made);
      if (mine !== opened) return;
      s.meshes.push(surface);
    }
    if (meta.uncertainty) {
      const maps = await Promise.all(meta.uncertainty.map(text => greys(text, 2 * meta.step, meta.shape, head)));
      made.uncertainty = maps;
    }
    if (mine !== opened) return;
    redraw();
    root.dataset.whole = c.name;
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
  function build(meta) {
    for (const part of [tools, planes, lesions]) part.replaceChildren();
    buildTools(meta);
    views = (c.flat ? PLANES.slice(0, 1) : PLANES).map(plane => buildPlane(plane));
    root.classList.toggle('flat', c.flat);
    if (!c.flat) {
      views.push(surface ||= buildSurface());  // browsers allow a page few devices: the same for every case
      planes.append(surface.figure);
    }
    planes.append(side);
    tabulate(lesions, c, go);
  }

  function buildTools(meta) {
    const names = c.sequences.map(entry => entry.name);
    if (names.length > 1) {
      const select = choice(tools, 'Sequence', c.colour ? ['colour', ...names] : names,
                            number => sequence(number - (c.colour ? 1 : 0)));
      select.className = 'sequence';
    }
    if (c.regions.length > 1) {
      const regions = choice(tools, 'Region', ['all', ...c.regions], number => { s.region = number - 1; redraw(); });
      regions.value = s.region + 1;
      regions.className = 'region';
    }
    const boxes = element(tools, 'fieldset');
    element(boxes, 'legend', {}, 'Show');
    const kinds = {reference: c.reference, prediction: c.prediction, errors: c.reference && c.prediction,
                   uncertainty: meta.uncertainty, head: !c.flat && c.meshes.some(part => part.of === 'head')};
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
      return {figure};
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
    return {figure, canvas};
  }

  function redraw() {  // once before the next frame, however often it is asked for
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (s.greys) draw();
    });
  }

  function draw() {
    for (const {plane, canvas, slider} of views.filter(view => view.canvas)) {
      const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
      const [wide, high] = [box.width, box.height].map(n => Math.max(1, Math.round(n * ratio)));
      if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, {width: wide, height: high});
      if (plane) drawPlane(canvas, plane, c, s); else drawSurface(gpu, canvas, c, s);
      if (slider) slider.value = s.at[plane.w];
    }
    s.sliders.level.value = (s.low + s.high) / 2;
    s.sliders.width.value = s.high - s.low;
    root.dataset.voxel = fileVoxel(c, s.at);
    explain(legend, c, s);
    tell(s.at);
  }

  cases.value = 0;
  root.hidden = false;
  open(0);
}

for (const root of document.querySelectorAll('.viewer')) start(root);
