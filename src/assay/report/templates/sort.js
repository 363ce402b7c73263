(() => {
  "use strict";
  const table = document.getElementById("heat");
  if (!table) return;
  const said = document.getElementById("heat-said");
  const head = table.tHead.rows[0];
  const made = [...head.cells].slice(1).map((cell) => cell.dataset.col);
  const lines = [...table.rows].filter((row) => row.querySelector("[data-col]"));
  const lists = [...table.tBodies];
  const order = lists.map((body) => [...body.querySelectorAll("tr[data-dim]")]);
  const cellOf = (row, col) => [...row.cells].find((cell) => cell.dataset.col === col);
  const asNumber = (text) => (text === "" ? NaN : Number(text));
  const last = (a, b) => (Number.isNaN(a) ? 1 : 0) - (Number.isNaN(b) ? 1 : 0);
  const compare = (sign) => (a, b) => last(a, b) || sign * (a - b) || 0;
  const place = (columns) => {
    for (const row of lines) for (const cell of columns.map((col) => cellOf(row, col))) row.append(cell);
  };
  const fill = (text, names) => text.replace(/\{(\w+)\}/g, (_, name) => names[name]);
  const mark = (header, way, within) => {
    for (const one of within) one.removeAttribute("aria-sort");
    if (way) header.setAttribute("aria-sort", way);
  };
  const turn = (header) => (header.getAttribute("aria-sort") === "descending" ? "ascending" : "descending");
  const rowHeads = order.flat().map((row) => row.cells[0]);
  const columnHeads = [...head.cells].slice(1);
  const bySystem = [head.cells[0], ...rowHeads];
  const actions = new Map();

  actions.set(head.cells[0], (header) => {
    const way = { ascending: "descending", descending: "" }[header.getAttribute("aria-sort") || ""] ?? "ascending";
    const names = Object.fromEntries(columnHeads.map((cell) => [cell.dataset.col, cell.dataset.name]));
    const sorted = [...made].sort((a, b) => names[a].localeCompare(names[b]));
    place(way === "" ? made : way === "ascending" ? sorted : sorted.reverse());
    mark(header, way, bySystem);
    said.textContent = table.dataset[way === "" ? "saidMade" : "saidName"];
  });
  for (const header of rowHeads) {
    actions.set(header, () => {
      const way = turn(header);
      const of = Object.fromEntries(made.map((col) => [col, asNumber(cellOf(header.parentElement, col).dataset.s)]));
      const by = compare(way === "descending" ? -1 : 1);
      place([...made].sort((a, b) => by(of[a], of[b])));
      mark(header, way, bySystem);
      said.textContent = fill(table.dataset.saidSystems, { what: header.dataset.name });
    });
  }
  for (const header of columnHeads) {
    actions.set(header, () => {
      const way = turn(header);
      const by = compare(way === "descending" ? -1 : 1);
      lists.forEach((body, index) => {
        const rows = [...order[index]];
        rows.sort((a, b) => by(asNumber(cellOf(a, header.dataset.col).dataset.z), asNumber(cellOf(b, header.dataset.col).dataset.z)));
        body.append(...rows);
      });
      mark(header, way, columnHeads);
      said.textContent = fill(table.dataset.saidRows, { what: header.dataset.name });
    });
  }
  for (const [header, action] of actions) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      action(header);
      button.focus();
    });
  }
  table.classList.add("sortable");

  const reveal = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    for (let at = target && target.parentElement; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);
  for (const link of document.querySelectorAll("#heat a, #cells a")) {
    link.addEventListener("click", () => setTimeout(reveal));
  }
  reveal();
})();
