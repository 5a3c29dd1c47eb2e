/** The live page inside the start page: as high as it needs, and as light or dark as the page around it. */
for (const frame of document.querySelectorAll("iframe.live")) {
  const fit = () => {
    const inside = frame.contentDocument?.documentElement;
    if (!inside) return;
    inside.dataset.theme = document.body.dataset.mdColorScheme === "slate" ? "dark" : "light";
    const body = inside.querySelector("body");
    if (body) frame.style.height = `${body.scrollHeight}px`;
  };
  frame.addEventListener("load", () => {
    fit();
    new frame.contentWindow.ResizeObserver(fit).observe(frame.contentDocument.body);
  });
  new MutationObserver(fit).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
  fit();
}

/** What the theme leaves out for those who read by ear or keyboard. */
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
addEventListener("load", () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset pre, math[display='block']")) {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  }
});
