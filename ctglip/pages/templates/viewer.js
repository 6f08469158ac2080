// The viewer of a scan page, hosted by niivue.js. Whatever goes wrong, the still pictures stay.
(() => {
  const place = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);

  const options = { ...NIIVUE_OPTIONS, multiplanarShowRender: 0 };
  const volumes = {};
  const voxels = {};
  const host = { volumes, moved: located };
  let main = null;
  let ground = [];
  let chosen = 0;
  let outlined = true;
  let mapped = 0;

  async function unpacked(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function volume(id, bytes, rest) {
    voxels[id] = new DataView(bytes.buffer);
    volumes[id] = niivueVolume(host, id, bytes, rest);
  }

  // Colours of the label overlay, [R, G, B, A] a label: every organ is outlined, the chosen one is filled too
  // unless a heat map lies on it.
  function colours() {
    const lut = new Array(4 * 256).fill(0); // 256 of them: the shader finds the middle of each exactly
    data.organs.forEach((organ, i) => {
      const colour = [1, 3, 5].map((at) => parseInt(organ.colour.slice(at, at + 2), 16));
      lut.splice(4 * (i + 1), 4, ...colour, outlined && !mapped && chosen === i + 1 ? 255 : 0);
    });
    return { lut: lut, min: 0, max: 255, labels: ["", ...data.organs.map((organ) => organ.name)] };
  }

  function recolour() {
    if (!volumes.labels) return;
    main.change("opts", { ...options, atlasOutline: outlined ? 1 : 0 });
    volumes.labels.change("colormap_label", colours());
  }

  // Lays one heat map over the scan, or none (0), and goes to its highest value.
  async function lay(number) {
    mapped = number;
    const id = "map" + number;
    if (number && !volumes[id]) {
      const rest = { colormap: "redyell", cal_min: data.heat.least, cal_max: 255, opacity: data.heat.opacity };
      volume(id, await unpacked("viewer-" + id), rest);
    }
    if (mapped !== number) return; // another was asked for meanwhile
    if (number) volumes[id].state.opacity = data.heat.opacity;
    main.change("volumes", niivueNames([...ground, ...(number ? [id] : [])]));
    if (number) {
      const map = data.maps[number - 1];
      const organ = 1 + data.organs.findIndex((one) => one.name === map.organ);
      if (organ && organ !== chosen) choose(organ);
      go(map.peak);
    }
    recolour();
  }

  const sliders = () => [...place.querySelectorAll("input[type=range]:not([name])")];

  function go(fractions) {
    main.change("scene", { crosshairPos: fractions });
    main.emit("msg:custom", { type: "draw_scene", data: [] }, []);
    located(fractions);
  }

  // Says where the cross is: in the sliders, and in words from the voxels themselves.
  function located(fractions) {
    sliders().forEach((slider, axis) => { slider.value = Math.round(fractions[axis] * 1000); });
    const [x, y, z] = data.shape.map((n, axis) => Math.min(n - 1, Math.max(0, Math.floor(fractions[axis] * n))));
    const voxel = x + data.shape[0] * (y + data.shape[1] * z);
    const organ = voxels.labels ? voxels.labels.getUint8(352 + voxel) : 0;
    place.querySelector(".where").textContent =
      (organ ? data.organs[organ - 1].name : "no outlined organ") + ", " +
      voxels.image.getInt16(352 + 2 * voxel, true) + " HU";
  }

  function choose(number) {
    chosen = number === chosen ? 0 : number;
    place.querySelectorAll("button[data-organ]").forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.organ) === chosen));
    });
    recolour();
    if (chosen) go(data.organs[chosen - 1].centre);
    const list = place.querySelector(".said");
    const lines = chosen ? data.organs[chosen - 1].answers : [];
    list.replaceChildren(...lines.map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }));
    place.querySelector(".said-of").textContent = !chosen
      ? "Choose an organ to see what was answered of it."
      : data.organs[chosen - 1].name + (lines.length ? ":" : ": nothing was asked of this organ.");
  }

  function wire() {
    place.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-organ]");
      if (button) choose(Number(button.dataset.organ));
    });
    place.addEventListener("input", (event) => {
      if (event.target.name === "strength") {
        data.heat.opacity = Number(event.target.value) / 100;
        if (mapped) volumes["map" + mapped].change("opacity", data.heat.opacity);
      } else if (event.target.type === "range") go(sliders().map((slider) => slider.value / 1000));
      if (event.target.name === "outlines") {
        outlined = event.target.checked;
        recolour();
      }
      if (event.target.name === "map") lay(Number(event.target.value));
      if (event.target.name === "window") {
        const [low, high] = event.target.value.split(" ").map(Number);
        volumes.image.change("cal_min", low);
        volumes.image.change("cal_max", high);
      }
    });
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    const [code, image, labels] = await Promise.all([
      unpacked("viewer-module"), unpacked("viewer-image"), data.organs.length ? unpacked("viewer-labels") : null,
    ]);
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const widget = (await import(address)).default;
    URL.revokeObjectURL(address);
    volume("image", image, { cal_min: data.window[0], cal_max: data.window[1] });
    if (labels) volume("labels", labels, { opacity: 0.3, colormap_label: colours() });
    ground = Object.keys(volumes);
    main = niivueViewer(host, niivueNames(ground), 400, options);
    place.hidden = false;
    await widget.initialize({ model: main });
    await widget.render({ model: main, el: place.querySelector(".canvas") });
    const canvas = place.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", data.subject);
    wire();
    choose(0);
    go(data.centre);
    document.getElementById("stills").classList.add("covered");
    document.documentElement.dataset.viewer = "ready";
  }

  start().catch((error) => {
    place.hidden = true;
    document.documentElement.dataset.viewer = "absent";
    document.documentElement.dataset.viewerReason = String(error);
  });
})();
