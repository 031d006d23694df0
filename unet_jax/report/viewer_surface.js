// Head and regions as surfaces that turn: the reference solid, the prediction as a net.

const SHADERS = {
  VERTEX_SHADER: `attribute vec3 place, normal; uniform mat3 turn; uniform vec3 middle, scale; varying highp float light;
    void main() { vec3 p = turn * (place - middle) * scale; light = 0.3 + 0.7 * abs((turn * normal).z);
      gl_Position = vec4(p.xy, -p.z, 1.0); }`,
  FRAGMENT_SHADER: `precision highp float; uniform vec4 ink; varying highp float light;
    void main() { gl_FragColor = vec4(ink.rgb * light * ink.a, ink.a); }`,
};

function renderer(canvas) {  // null where the browser has no WebGL
  const gl = canvas.getContext('webgl', {antialias: true});
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of Object.entries(SHADERS)) {
    const shader = gl.createShader(gl[kind]);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, 'place');
  gl.bindAttribLocation(program, 1, 'normal');
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  return {gl, program, cross: gl.createBuffer()};
}

async function mesh({gl}, packed, c) {  // a surface on the device, in millimetres
  const places = Float32Array.from(await sums(packed.vertices, 3)), faces = await sums(packed.faces, 1);
  for (let i = 0; i < places.length; i++) places[i] *= packed.unit * c.spacing[i % 3];
  const normals = new Float32Array(places.length), lines = [];
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, d] = [faces[f], faces[f + 1], faces[f + 2]];
    for (let k = 0; k < 3; k++) {
      const m = (k + 1) % 3, n = (k + 2) % 3, am = places[3 * a + m], an = places[3 * a + n];
      const area = (places[3 * b + m] - am) * (places[3 * d + n] - an) - (places[3 * b + n] - an) * (places[3 * d + m] - am);
      normals[3 * a + k] += area;
      normals[3 * b + k] += area;
      normals[3 * d + k] += area;
    }
    if (a < b) lines.push(a, b);  // each edge has two faces, which pass it in opposite ways
    if (b < d) lines.push(b, d);
    if (d < a) lines.push(d, a);
  }
  for (let i = 0; i < normals.length; i += 3) {
    const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
    for (let k = 0; k < 3; k++) normals[i + k] /= length;
  }
  const store = (target, values) => {
    const buffer = gl.createBuffer();
    gl.bindBuffer(target, buffer);
    gl.bufferData(target, values, gl.STATIC_DRAW);
    return buffer;
  };
  return {of: packed.of, region: packed.region, places: store(gl.ARRAY_BUFFER, places),
          normals: store(gl.ARRAY_BUFFER, normals), n: faces.length, m: lines.length,
          faces: store(gl.ELEMENT_ARRAY_BUFFER, Uint16Array.from(faces)),
          lines: store(gl.ELEMENT_ARRAY_BUFFER, Uint16Array.from(lines))};
}

function turned(yaw, pitch) {  // 3 x 3, by columns: left, posterior, inferior to right, up, towards the eye
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return [cy, sp * sy, -cp * sy, -sy, sp * cy, -cp * cy, 0, -cp, -sp];
}

function drawSurface({gl, program, cross}, canvas, c, s) {
  const uniform = name => gl.getUniformLocation(program, name), mm = c.shape.map((n, a) => n * c.spacing[a]);
  const half = Math.hypot(...mm) / 2, side = Math.min(canvas.width, canvas.height) * s.turn.zoom * 1.25 / half;
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.depthMask(true);
  gl.clearColor(0, 0, 0, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.uniformMatrix3fv(uniform('turn'), false, turned(s.turn.yaw, s.turn.pitch));
  gl.uniform3fv(uniform('middle'), mm.map(n => n / 2));
  gl.uniform3fv(uniform('scale'), [side / canvas.width, side / canvas.height, 0.5 / half]);
  const draw = (part, colour, alpha, net) => {
    [part.places, part.normals].forEach((buffer, place) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    });
    gl.uniform4fv(uniform('ink'), [...[1, 3, 5].map(k => parseInt(colour.slice(k, k + 2), 16) / 255), alpha]);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, net ? part.lines : part.faces);
    gl.drawElements(net ? gl.LINES : gl.TRIANGLES, net ? part.m : part.n, gl.UNSIGNED_SHORT, 0);
  };
  const shown = s.meshes.filter(m => m.of !== 'head' && s.show[m.of] && (s.region < 0 || m.region === s.region));
  const rank = m => c.order.indexOf(m.region), inner = Math.max(...shown.map(rank));  // the smallest comes last
  shown.sort((a, b) => rank(b) - rank(a));
  for (const part of shown) {
    const net = part.of === 'prediction', opaque = net || rank(part) === inner;
    gl.depthMask(opaque);
    draw(part, c.colours[part.region], net ? 0.9 : opaque ? 1 : 0.4, net);
  }
  gl.depthMask(false);
  const at = s.at.map((n, a) => (n + 0.5) * c.spacing[a]);
  const ends = [0, 1, 2].flatMap(a => [0, mm[a]].flatMap(end => at.map((n, k) => k === a ? end : n)));
  gl.bindBuffer(gl.ARRAY_BUFFER, cross);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(ends), gl.DYNAMIC_DRAW);
  gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
  gl.enableVertexAttribArray(0);
  gl.disableVertexAttribArray(1);
  gl.vertexAttrib3f(1, 0, 0, 0);
  gl.uniform4fv(uniform('ink'), [2, 2, 2, 0.6]);
  gl.drawArrays(gl.LINES, 0, 6);
  if (!s.show.head) return;
  gl.enable(gl.CULL_FACE);
  for (const side of [gl.FRONT, gl.BACK]) {
    gl.cullFace(side);
    for (const part of s.meshes.filter(m => m.of === 'head')) draw(part, '#c8ccd4', 0.2, false);
  }
  gl.disable(gl.CULL_FACE);
}
