() => {
  // Contrast by WCAG 2.2 of every visible text and of the borders of controls, as computed by the browser.
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const found = [];
  const add = (what, colour, behind, needed) => {
    const measured = ratio(over(rgba(colour), behind), behind);
    found.push({ what, ratio: Math.round(measured * 100) / 100, needed });
  };
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility({ visibilityProperty: true }) || node.closest(".visually-hidden, svg, noscript, option")) continue;
    if (node.closest("button:disabled, input:disabled")) continue; // WCAG asks nothing of what is switched off
    const style = getComputedStyle(node);
    const words = [...node.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
    const isLarge = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (words.length) add(`text "${words[0].textContent.trim().slice(0, 40)}"`, style.color, ground(node), isLarge ? 3 : 4.5);
    if (node.matches("input, select, button.button:not(.button--plain), .control__disc")) {
      const inside = ground(node);
      const outside = ground(node.parentElement);
      const edge = Math.max(ratio(inside, outside), ratio(over(rgba(style.borderTopColor), outside), outside));
      found.push({ what: `edge of ${node.id || node.className}`, ratio: Math.round(edge * 100) / 100, needed: 3 });
    }
  }
  for (const icon of document.querySelectorAll("button:enabled svg.icon")) {
    if (icon.checkVisibility()) add(`icon in ${icon.closest("button").id}`, getComputedStyle(icon).stroke, ground(icon), 3);
  }
  return found;
}
