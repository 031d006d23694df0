// What the viewer says: places, values, the legend and the table of lesions. Text from data goes in as text only.

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

function choice(parent, text, names, chosen) {  // a select; `names` may hold [heading, name] of a group
  const select = labelled(parent, text, 'select'), groups = {};
  names.forEach((name, value) => {
    const [head, option] = Array.isArray(name) ? name : ['', name];
    if (head && !groups[head]) groups[head] = element(select, 'optgroup', {label: head});
    element(groups[head] || select, 'option', {value}, option);
  });
  select.addEventListener('change', () => chosen(Number(select.value)));
  return select;
}

function apply(matrix, at, c) {
  return matrix.map(row => at.reduce((sum, n, a) => sum + row[a] * n, row[3])).slice(0, c.flat ? 2 : 3);
}

function fileVoxel(c, at) {  // of the file, counted from 0; of images x, y
  return apply(c.file, at, c).map(Math.round).join(', ');
}

function coordinates(c, at) {  // one text an axis: 'L 12.0', or the distance from the first voxel
  return apply(c.world, at, c).map((n, a) =>
    c.letters ? `${c.letters[a][n < 0 ? 0 : 1]} ${Math.abs(n).toFixed(1)}` : `${'xyz'[a]} ${n.toFixed(c.unit === 'mm' ? 1 : 0)}`);
}

function height(c, plane, at) {  // where the slice of a plane lies
  const across = c.world.map(row => Math.abs(row[plane.w]));
  return coordinates(c, at)[across.indexOf(Math.max(...across))];
}

function describe(c, s, at) {
  const i = at[0] + c.shape[0] * (at[1] + c.shape[1] * at[2]);
  const numbers = s.greys.map((volume, k) => {
    const {low, high} = c.sequences[s.sequence < 0 ? k : s.sequence], value = low + volume[i] / 255 * (high - low);
    return c.head[i] ? Number(value.toPrecision(3)).toLocaleString('en') : 'outside';
  });
  const within = set => c.regions.filter((_, r) => set[i] >>> r & 1).join(' ') || 'none';
  const words = [`${coordinates(c, at).join(', ')} ${c.unit}`];
  if (!c.flat) words.push(`voxel ${fileVoxel(c, at)}`);
  const sign = s.greys.some(volume => volume[i] === 255) && !c.flat ? '≥' : '≈';  // brighter is cut off
  words.push(`${s.sequence < 0 ? 'colour' : c.sequences[s.sequence].name} ${sign} ${numbers.join(', ')}`);
  for (const name of ['reference', 'prediction']) if (c[name]) words.push(`${name}: ${within(c[name])}`);
  if (c.uncertainty) {
    const values = c.regions.map((name, r) => `${name} ${Math.round(c.uncertainty[r][i] / 2.55)}`);
    words.push(`uncertainty of 100: ${values.join(' ')}`);
  }
  return words.join(' · ');
}

function explain(legend, c, s) {  // what lines and colours mean, of what is shown
  legend.replaceChildren();
  const entry = (colour, style, text) => {
    element(legend, 'span', {className: style}, text).style.setProperty('--ink', colour);
  };
  const shown = ['reference', 'prediction'].filter(name => s.show[name] && c[name]);
  c.regions.forEach((name, r) => {
    if (shown.length && (s.region < 0 || s.region === r)) entry(c.colours[r], 'region', name);
  });
  for (const name of shown) entry('', name === 'reference' ? 'solid' : 'dashed', name);
  if (s.show.errors && c.reference && c.prediction) {
    for (const [name, colour, kind] of ERRORS) entry(colour, {'': 'plain', '/': 'hatched', '.': 'dotted'}[kind], name);
  }
  if (s.show.uncertainty && c.uncertainty) entry(`rgb(${UNSURE})`, 'plain', 'uncertain');
}

function tabulate(parent, c, jump) {  // the lesions; a row, or the button in it, jumps to the place
  if (!c.lesions.length) return element(parent, 'p', {}, 'No lesion in the reference or the prediction.');
  const table = element(element(parent, 'div', {className: 'rows'}), 'table'), amount = c.flat ? 'pixels' : 'ml';
  const head = element(element(table, 'thead'), 'tr'), body = element(table, 'tbody');
  for (const text of ['Lesion', '', `Reference, ${amount}`, `Prediction, ${amount}`, 'Dice', `Centre, ${c.unit}`]) {
    element(head, text ? 'th' : 'td', text ? {scope: 'col'} : {}, text);
  }
  for (const lesion of c.lesions) {
    const row = element(body, 'tr'), first = element(row, 'th', {scope: 'row'});
    first.style.setProperty('--ink', c.colours[lesion.region]);
    row.dataset.voxel = fileVoxel(c, lesion.at);
    element(first, 'button', {type: 'button', title: 'Show the place'}, lesion.name);
    const place = coordinates(c, lesion.at).join(', ');
    for (const text of [lesion.state, lesion.reference, lesion.prediction, lesion.dice, place]) {
      element(row, 'td', {}, text);
    }
    row.addEventListener('click', () => {
      for (const other of body.children) other.toggleAttribute('aria-current', other === row);
      jump(lesion.at);
    });
  }
  return element(parent, 'p', {className: 'small'}, c.note);
}
