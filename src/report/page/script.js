// Tables can be sorted by a click on the head of a column. Without this the page has all the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const [body] = table.tBodies;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const key = ({ cells }) => {
        const { dataset, textContent } = cells[column];
        return dataset.v === undefined ? textContent : Number(dataset.v);
      };
      const compare = (a, b) => {
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
        const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
        return up ? order : -order;
      };
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    });
  });
}
