"use strict";
// The page works without this: it opens what a link leads to, sorts tables by a click, and opens everything for print.
(function () {
  function reveal() {
    var id = decodeURIComponent(location.hash.slice(1));
    var target = id && document.getElementById(id);
    if (!target) return;
    for (var at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  reveal();

  var opened = [];
  addEventListener("beforeprint", function () {
    opened = Array.prototype.filter.call(document.querySelectorAll("details"), function (d) { return !d.open; });
    opened.forEach(function (d) { d.open = true; });
  });
  addEventListener("afterprint", function () { opened.forEach(function (d) { d.open = false; }); });

  var scale = { s: 1, m: 60, h: 3600, B: 1, KiB: 1024, MiB: 1048576, GiB: 1073741824, TiB: 1099511627776, M: 1e6 };
  function value(cell) {
    var plain = cell.textContent.replace(/,/g, "").trim();
    if (plain === "" || plain.charAt(0) === "–") return null;
    var parts = plain.match(/^(-?[\d.]+(?:e[-+]?\d+)?) ?(s|m|h|B|KiB|MiB|GiB|TiB|M|%)?(?: (\d+)([ms]))?$/);
    // Behind a number there can be its deviation, stars and the number of a note.
    if (!parts && cell.classList.contains("number")) parts = plain.match(/^(-?[\d.]+(?:e[-+]?\d+)?)/);
    if (!parts) return plain.toLowerCase();
    return parseFloat(parts[1]) * (scale[parts[2]] || 1) + (parts[3] ? parts[3] * scale[parts[4]] : 0);
  }
  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }
  document.querySelectorAll("table").forEach(function (table) {
    var body = table.tBodies[0];
    if (!body || body.rows.length < 3) return;
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        Array.prototype.forEach.call(head.parentElement.cells, function (c) { c.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
        var rows = Array.prototype.map.call(body.rows, function (r) { return [value(r.cells[column]), r]; });
        rows.sort(function (a, b) { return a[0] === null || b[0] === null ? compare(a[0], b[0]) : down * compare(a[0], b[0]); });
        rows.forEach(function (r) { body.appendChild(r[1]); });
      });
    });
  });

  var nodes = document.querySelectorAll("details.node");
  var tools = document.createElement("p");
  tools.className = "tools";
  [["Open all", true], ["Close all", false]].forEach(function (tool) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = tool[0];
    button.addEventListener("click", function () { nodes.forEach(function (d) { d.open = tool[1]; }); });
    tools.appendChild(button);
    tools.appendChild(document.createTextNode(" "));
  });
  if (nodes.length > 1) nodes[0].before(tools);
})();
