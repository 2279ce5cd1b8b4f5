// Sorts tables by a click on a column's head. Without it they stay in their order.
for (const table of document.querySelectorAll("table.index")) {
  const body = table.tBodies[0];
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const numbers = head.dataset.sort === "number";
    const value = (row) => {
      const text = row.cells[head.cellIndex].textContent.trim();
      return numbers ? (text === "" ? NaN : Number(text)) : text.toLowerCase();
    };
    const missing = (v) => v === "" || Number.isNaN(v);
    button.addEventListener("click", () => {
      const last = head.getAttribute("aria-sort");
      const up = last ? last === "descending" : !numbers;
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [value(row), row]);
      // What has no value stands last, either way.
      rows.sort(([a], [b]) => missing(a) - missing(b) ||
        (numbers ? a - b || 0 : a.localeCompare(b, undefined, { numeric: true })) * (up ? 1 : -1));
      body.append(...rows.map(([, row]) => row));
    });
  }
}
