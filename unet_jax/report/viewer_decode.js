// Decodes what viewer_pack.py packed: base64 of deflated bytes, integers as zigzag byte planes, greys as wavelets.

async function inflate(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function integers(text) {  // all low bytes, then all high bytes, of 0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ...
  const bytes = await inflate(text), n = bytes.length / 2, values = new Int32Array(n);
  for (let i = 0; i < n; i++) {
    const folded = bytes[i] | bytes[n + i] << 8;
    values[i] = (folded >>> 1) ^ -(folded & 1);
  }
  return values;
}

async function sums(text, stride) {  // of differences to the value `stride` places before
  const values = await integers(text);
  for (let i = stride; i < values.length; i++) values[i] += values[i - stride];
  return values;
}

async function bitSets(text, bytes) {
  const raw = await inflate(text);
  return new {1: Uint8Array, 2: Uint16Array, 4: Uint32Array}[bytes](raw.buffer);
}

async function bits(text, n) {  // most significant first, as numpy.packbits
  const raw = await inflate(text), values = new Uint8Array(n);
  for (let i = 0; i < n; i++) values[i] = raw[i >> 3] >> (7 - (i & 7)) & 1;
  return values;
}

// Wavelet of Cohen, Daubechies and Feauveau (9/7) by lifting, in place: what `wavelet` of viewer_pack.py did, undone.
const LEVELS = 3, GAIN = 1.149604398;
const LIFTS = [[0, -0.4435068522], [1, -0.8829110762], [0, 0.05298011854], [1, 1.586134342]];

async function greys(text, step, shape, head) {  // (X, Y, Z) -> 0..255, x fastest, 0 outside the head
  const coded = await integers(text), [X, Y, Z] = shape, values = new Float32Array(X * Y * Z);
  let from = 0;
  const band = (z0, y0, x0, stride) => {
    for (let z = z0; z < Z; z += stride) {
      for (let y = y0; y < Y; y += stride) {
        for (let x = x0, row = (z * Y + y) * X; x < X; x += stride) values[row + x] = coded[from++] * step;
      }
    }
  };
  for (let level = 0; level < LEVELS; level++) {
    const s = 1 << level;
    for (let m = 1; m < 8; m++) band(m & 1 ? s : 0, m & 2 ? s : 0, m & 4 ? s : 0, 2 * s);
  }
  band(0, 0, 0, 1 << LEVELS);
  for (let s = 1 << LEVELS - 1; s > 0; s >>= 1) {
    unlift(values, X, [s, X, 1], [s, Y, X], [s, Z, X * Y]);  // along x, for every y and z
    unlift(values, Y, [s, Y, X], [s, X, 1], [s, Z, X * Y]);
    unlift(values, Z, [s, Z, X * Y], [s, X, 1], [s, Y, X]);
  }
  const result = new Uint8Array(values.length);
  for (let i = 0; i < result.length; i++) {
    result[i] = head[i] ? Math.max(1, Math.min(255, Math.round(values[i]))) : 0;  // 0 says: outside
  }
  return result;
}

function unlift(values, length, along, inner, outer) {  // each [stride on the grid, end, elements apart]
  const [s, , apart] = along, n = Math.ceil(length / s), hop = s * apart;
  if (n < 2) return;
  const end = outer[1] * outer[2], far = outer[0] * outer[2], wide = inner[1] * inner[2], near = inner[0] * inner[2];
  for (let i = 0; i < n; i++) {
    const gain = i & 1 ? GAIN : 1 / GAIN;
    for (let o = i * hop; o < end + i * hop; o += far) for (let p = o; p < o + wide; p += near) values[p] *= gain;
  }
  for (const [odd, factor] of LIFTS) {
    for (let i = odd; i < n; i += 2) {
      const left = i > 0 ? -hop : hop, right = i + 1 < n ? hop : -hop;
      for (let o = i * hop; o < end + i * hop; o += far) {
        for (let p = o; p < o + wide; p += near) values[p] += factor * (values[p + left] + values[p + right]);
      }
    }
  }
}
