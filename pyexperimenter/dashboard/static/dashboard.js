// Conveniences only: every page works without this script.
"use strict";

// Parts of a page are fetched again while it is seen, unless the user is in them.
function refresh(part) {
  const seconds = Number(part.dataset.refresh);
  setTimeout(async () => {
    const busy = part.contains(document.activeElement) || String(getSelection()) !== "";
    if (document.hidden || busy) return refresh(part);
    let next = part;
    try {
      const address = new URL(location.href);
      address.searchParams.set("part", part.id); // the rest costs the database more
      const answer = await fetch(address, { credentials: "same-origin" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const found = page.getElementById(part.id);
        if (found && found.innerHTML !== part.innerHTML) {
          next = document.importNode(found, true);
          part.replaceWith(next);
        }
      }
    } catch { /* the server is away; it is asked again */ }
    refresh(next);
  }, 1000 * seconds);
}

// What is in the element before a button goes into the clipboard.
function copy(button) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { // without HTTPS or the permission, the user copies what is selected
      getSelection().selectAllChildren(code);
    }
  });
}

// A drag over cells of the grid map opens the experiments of all of them.
function drag(map) {
  let first = null;
  const place = (cell) => [cell.parentElement.rowIndex, cell.cellIndex];
  const cells = [...map.querySelectorAll("td[data-select]")];
  const between = (a, b, c) => Math.min(a, b) <= c && c <= Math.max(a, b);
  const chosen = (last) => cells.filter((cell) => {
    const [[r0, c0], [r1, c1], [r, c]] = [place(first), place(last), place(cell)];
    return between(r0, r1, r) && between(c0, c1, c);
  });
  const mark = (last) => {
    const some = first && last ? new Set(chosen(last)) : new Set();
    for (const cell of cells) cell.classList.toggle("chosen", some.size > 1 && some.has(cell));
  };
  map.addEventListener("dragstart", (event) => event.preventDefault());
  map.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") first = event.target.closest("td[data-select]");
  });
  map.addEventListener("pointerover", (event) => mark(event.target.closest("td[data-select]")));
  addEventListener("pointerup", (event) => {
    const last = event.target.closest && event.target.closest("td[data-select]");
    const some = first && last && first !== last && map.contains(last) ? chosen(last) : [];
    first = null;
    mark(null);
    if (!some.length) return;
    const target = new URL(map.dataset.target, location.href);
    for (const cell of some) {
      for (const [name, value] of new URLSearchParams(cell.dataset.select)) {
        if (!target.searchParams.getAll(name).includes(value)) target.searchParams.append(name, value);
      }
    }
    map.addEventListener("click", (click) => click.preventDefault(), { once: true, capture: true });
    location.assign(target);
  });
}

// A drag along an axis of parallel coordinates fades the lines that do not cross it there; a click on it ends that.
function brush(figure) {
  const axes = [...figure.querySelectorAll(".axis")].map((axis) => parseFloat(axis.getAttribute("d").slice(1)));
  const strands = [...figure.querySelectorAll(".strand")].map((line) => ({
    line, heights: line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[1])),
  }));
  const boxes = axes.map((left) => {
    const box = document.createElementNS(figure.namespaceURI, "rect");
    for (const [name, value] of Object.entries({ class: "brush", x: left - 6, width: 12, height: 0 })) {
      box.setAttribute(name, value);
    }
    return figure.appendChild(box);
  });
  const ranges = axes.map(() => null);
  let axis = -1, start = 0;
  const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(figure.getScreenCTM().inverse());
  const set = (range) => {
    ranges[axis] = range;
    boxes[axis].setAttribute("y", range ? range[0] : 0);
    boxes[axis].setAttribute("height", range ? range[1] - range[0] : 0);
    const crosses = (heights) => ranges.every((one, i) => !one || (one[0] <= heights[i] && heights[i] <= one[1]));
    for (const { line, heights } of strands) line.classList.toggle("faded", !crosses(heights));
  };
  figure.addEventListener("pointerdown", (event) => {
    const { x, y } = place(event);
    axis = axes.findIndex((left) => Math.abs(left - x) <= 12);
    if (axis < 0) return;
    start = y;
    event.preventDefault();
    set(null);
  });
  addEventListener("pointermove", (event) => {
    if (axis < 0) return;
    const { y } = place(event);
    set([Math.min(start, y), Math.max(start, y)]);
  });
  addEventListener("pointerup", () => { axis = -1; });
}

document.querySelectorAll("[data-refresh]").forEach(refresh);
document.querySelectorAll("[data-copy]").forEach(copy);
document.querySelectorAll("table[data-target]").forEach(drag);
new Set([...document.querySelectorAll(".strand")].map((line) => line.ownerSVGElement)).forEach(brush);
