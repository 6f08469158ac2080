"use strict";
// Hosts the NiiVue widget of the installed ipyniivue (an anywidget front end) with plain objects in the place of
// notebook models: on the pages that stand alone, and on those of ctglip serve.
const NIIVUE_OPTIONS = {
  isRadiologicalConvention: true, sagittalNoseLeft: true, isSliceMM: true, multiplanarPadPixels: 4,
  crosshairColor: [0.72, 0.76, 0.8, 0.6], crosshairWidth: 0.6, fontColor: [0.8, 0.83, 0.85, 1], atlasOutline: 1,
  dragAndDropEnabled: false, logLevel: "silent", showLegend: false, scrollRequiresFocus: true, loadingText: "",
};

// The viewer's model, or that of one of its volumes; `host` has `volumes` by name, and `moved(fractions)` for the cross.
class NiiVueModel {
  constructor(state, host) {
    this.state = state;
    this.host = host;
    this.handlers = {};
    this._comm_live = false;
    this.widget_manager = { get_model: (id) => Promise.resolve(host.volumes[id]) };
  }
  get(key) { return this.state[key]; }
  set(key, value) { this.state[key] = value; }
  change(key, value) { this.state[key] = value; this.emit("change:" + key); }
  emit(name, ...values) { (this.handlers[name] || []).forEach((handler) => handler(...values)); }
  on(name, handler) { (this.handlers[name] ||= []).push(handler); }
  off(name, handler) { this.handlers[name] = handler ? (this.handlers[name] || []).filter((h) => h !== handler) : []; }
  save_changes() {}
  send_sync_message() { return ""; }
  send(message) { if (message.event === "location_change") this.host.moved(message.data.frac); }
}

function niivueViewer(host, volumes, height, options) {
  return new NiiVueModel({
    height, volumes, meshes: [], background_masks_overlays: 0, draw_lut: null, draw_opacity: 0.8,
    draw_fill_overwrites: true, graph: null, scene: null, overlay_outline_width: 0, overlay_alpha_shader: 1,
    opts: options,
  }, host);
}

function niivueVolume(host, id, bytes, rest) {
  return new NiiVueModel({
    id: id + "_py", name: id + ".nii", data: bytes, path: {}, url: "", paired_img_path: {}, paired_img_url: "",
    paired_img_data: null, opacity: 1, colormap: "gray", colormap_negative: "", cal_min: null, cal_max: null,
    cal_min_neg: null, cal_max_neg: null, frame_4d: 0, colorbar_visible: false, colormap_type: 0,
    colormap_label: null, colormap_invert: false, modulation_image: null, modulate_alpha: 0, ...rest,
  }, host);
}

// Names of volumes as the widget asks for them.
const niivueNames = (ids) => ids.map((id) => "IPY_MODEL_" + id);
