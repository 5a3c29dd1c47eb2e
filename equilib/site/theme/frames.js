/** Sliders without a kernel: each shows one of the pictures that the widget drew when the pages were built. */
for (const figure of document.querySelectorAll("figure.frames")) {
  const picture = figure.querySelector("img");
  const sliders = [...figure.querySelectorAll("input")];
  const { folder, labels } = JSON.parse(figure.dataset.frames);
  const show = () => {
    let index = 0;
    sliders.forEach((slider, axis) => {
      const label = labels[axis][slider.value];
      index = index * labels[axis].length + Number(slider.value);
      slider.setAttribute("aria-valuetext", label);
      slider.parentElement.querySelector("output").textContent = label;
    });
    picture.src = `${folder}${String(index).padStart(4, "0")}.png`;
  };
  for (const slider of sliders) slider.addEventListener("input", show);
}
