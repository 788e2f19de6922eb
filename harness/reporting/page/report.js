// Tables sort by a click on a heading and filter by what is typed; without this they are plain.
(() => {
  const text = (cell) => cell.textContent.trim();
  const value = (words) => {
    const found = words.replace(/,/g, "").replace(/\u2212/g, "-").match(/^[+-]?\d+(\.\d+)?/);
    return found ? parseFloat(found[0]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (Number.isNaN(x) && Number.isNaN(y)) return a.localeCompare(b);
    return Number.isNaN(x) ? -1 : Number.isNaN(y) ? 1 : x - y;
  };
  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || head.classList.contains("word");
        const rising = up && head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const rows = [...body.rows];
        rows.sort((a, b) => compare(text(a.cells[column]), text(b.cells[column])) * (rising ? 1 : -1));
        table.classList.add("sorted");
        body.append(...rows);
      });
    });
    if (body.rows.length < 8) continue;
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "search";
    label.className = "filter";
    label.append("filter rows", input);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of body.rows) {
        const words = text(row).toLowerCase();
        row.hidden = !wanted.every((word) => words.includes(word));
      }
      table.classList.toggle("sorted", wanted.length > 0 || heads.some((h) => h.ariaSort));
    });
    table.parentElement.before(label);
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
