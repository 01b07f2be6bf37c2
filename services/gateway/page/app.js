import { asked } from "./service.js";
import { Walk } from "./state.js";

const { service, wanted } = asked();
const walk = new Walk(service);
walk.open({ scene: wanted.get("scene") ?? "", tour: "R360", judged: true });
