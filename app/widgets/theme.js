// Tells the server when the page has become light or dark.
export default function ({ setTriggerValue }) {
  const app = document.querySelector(".stApp")
  const ground = () => getComputedStyle(app).backgroundColor
  let known = ground()
  const look = () => {
    if (ground() === known) return
    known = ground()
    setTriggerValue("changed", known)
  }
  // A theme is a class; the colour may fade in behind it.
  const observer = new MutationObserver(() => { look(); setTimeout(look, 500) })
  observer.observe(app, { attributes: true, attributeFilter: ["class"] })
  return () => observer.disconnect()
}
