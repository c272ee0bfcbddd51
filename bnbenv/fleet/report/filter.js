"use strict";
// Hides the hosts, reasons and classes in which the words do not occur. Everything is in the page already.
(() => {
  const field = document.getElementById("filter"), said = document.getElementById("shown");
  const holders = [...document.querySelectorAll(".host-list > li, #classes tbody tr")];
  const texts = holders.map((one) => {
    const group = one.closest(".group");
    return `${one.textContent} ${group ? group.dataset.words : ""}`.toLowerCase();
  });
  const groups = [...document.querySelectorAll(".group")], states = [...document.querySelectorAll(".state")];
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hosts = 0;
    holders.forEach((one, at) => {
      one.hidden = !words.every((word) => texts[at].includes(word));
      if (!one.hidden && one.localName === "li") hosts++;
    });
    for (const one of groups) one.hidden = !one.querySelector("li:not([hidden])");
    for (const one of states) one.hidden = !one.querySelector(".group:not([hidden])");
    said.textContent = words.length ? `${hosts} ${hosts === 1 ? "host" : "hosts"}` : "";
  };
  if (field) {
    field.parentElement.hidden = false;
    field.addEventListener("input", filter);
    filter();
  }
  document.documentElement.dataset.ready = "yes";
})();
