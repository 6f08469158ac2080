// The viewer of a scan, hosted by /niivue-host.js: a classic script that the page loads first.
/* global NIIVUE_OPTIONS, niivueNames, niivueViewer, niivueVolume */
const OPTIONS = { ...NIIVUE_OPTIONS, multiplanarShowRender: 1, multiplanarLayout: 2, sliceType: 3 };
export const WINDOWS = [
  ["Soft tissue", -160, 240], ["Lung", -1350, 150], ["Bone", -450, 1050], ["Liver", -45, 105],
  ["Mediastinum", -125, 225], ["Vessels", 0, 600], ["Brain", 0, 80],
];
export const VIEWS = [["Planes and 3D", 3], ["Axial", 0], ["Coronal", 1], ["Sagittal", 2], ["3D", 4]];
const HEAT_FROM = 51; // of 255: less is not shown

async function unpacked(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error("The volume is not there.");
  const stream = answer.body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One scan: planes and 3D, organs outlined, one filled, one heat map laid over.
export class Viewer {
  constructor(element, about, place, moved) {
    Object.assign(this, { element, about, place, told: moved, volumes: {}, voxels: {}, filled: [], outlined: true, map: null });
    this.options = { ...OPTIONS };
    this.heat = 0.5;
    this.serial = 0;
  }

  async start(base, query, window) {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("This browser has no WebGL 2.");
    const [widget, image, labels] = await Promise.all([
      import(`/niivue.js?${this.place}`), // the module holds one viewer: each place on the page has its own
      unpacked(`${base}/views/image.nii.gz?${query}`),
      this.about.organs.some((organ) => organ.shown) ? unpacked(`${base}/views/labels.nii.gz?${query}`) : null,
    ]);
    this.add("image", image, { cal_min: window[0], cal_max: window[1] });
    if (labels) this.add("labels", labels, { opacity: 0.3, colormap_label: this.colours() });
    this.main = niivueViewer(this, this.shown(), this.element.clientHeight || 400, this.options);
    await widget.default.initialize({ model: this.main });
    this.end = await widget.default.render({ model: this.main, el: this.element });
    const canvas = this.element.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Axial, coronal and sagittal slices and a 3D view. The patient’s right is on the left.");
    let down = null;
    canvas.addEventListener("pointerdown", (event) => { down = event.button ? null : [event.clientX, event.clientY]; });
    canvas.addEventListener("pointerup", (event) => {
      const still = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4;
      if (still) setTimeout(() => this.told(this.at, true), 0);
    });
  }

  add(id, bytes, rest) {
    this.voxels[id] = new DataView(bytes.buffer);
    this.volumes[id] = niivueVolume(this, id, bytes, rest);
  }

  shown() {
    return niivueNames(["image", ...(this.voxels.labels ? ["labels"] : []), ...(this.map ? [this.map] : [])]);
  }

  // [R, G, B, A] a label: every organ is outlined, the chosen one is filled unless a heat map lies on it.
  colours() {
    const lut = new Array(4 * 256).fill(0), names = [""];
    for (const organ of this.about.organs) {
      if (!organ.shown || organ.shown.numbers.length > 1) continue;
      const [label] = organ.shown.numbers;
      const colour = [1, 3, 5].map((at) => parseInt(organ.shown.colour.slice(at, at + 2), 16));
      lut.splice(4 * label, 4, ...colour, this.outlined && !this.map && this.filled.includes(label) ? 255 : 0);
      names[label] = organ.display;
    }
    return { lut, min: 0, max: 255, labels: Array.from(names, (name) => name || "") };
  }

  recolour() {
    if (!this.volumes.labels) return;
    this.set({ atlasOutline: this.outlined ? 1 : 0 });
    this.volumes.labels.change("colormap_label", this.colours());
  }

  set(options) {
    Object.assign(this.options, options);
    this.main.change("opts", { ...this.options });
  }

  window(low, high) {
    this.volumes.image.change("cal_min", low);
    this.volumes.image.change("cal_max", high);
  }

  outline(on) { this.outlined = on; this.recolour(); }

  choose(organ) {
    this.filled = organ && organ.shown ? organ.shown.numbers : [];
    this.recolour();
    if (organ && organ.shown) this.go(organ.shown.centre);
  }

  // Lays a heat map over the scan, or takes it off (null).
  async lay(address, peak) {
    const wanted = ++this.serial;
    if (address && !this.volumes[address]) {
      const bytes = await unpacked(address);
      this.add(address, bytes, { name: `map${wanted}.nii`, colormap: "redyell", cal_min: HEAT_FROM, cal_max: 255 });
    }
    if (wanted !== this.serial) return;
    this.map = address;
    if (address) this.volumes[address].state.opacity = this.heat;
    this.main.change("volumes", this.shown());
    if (address && peak) this.go(peak);
    this.recolour();
  }

  strength(share) {
    this.heat = share;
    if (this.map) this.volumes[this.map].change("opacity", share);
  }

  go(fractions) {
    this.main.change("scene", { crosshairPos: fractions });
    this.main.emit("msg:custom", { type: "draw_scene", data: [] }, []);
    this.moved(fractions);
  }

  // Where the cross is: fractions, HU, and the number of the organ there.
  moved(fractions) {
    const shape = this.about.shape;
    const [x, y, z] = shape.map((n, axis) => Math.min(n - 1, Math.max(0, Math.floor(fractions[axis] * n))));
    const voxel = x + shape[0] * (y + shape[1] * z);
    this.at = {
      fractions, hu: this.voxels.image.getInt16(352 + 2 * voxel, true),
      label: this.voxels.labels ? this.voxels.labels.getUint8(352 + voxel) : 0,
    };
    this.told(this.at, false);
  }
}
