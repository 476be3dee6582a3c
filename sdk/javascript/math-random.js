// `Math.random` of the gateway's randomness: that of QuickJS begins anew in each instance, with what the build has left. The build imports this into
// components whose code has `Math.random`.
import { bytes } from "./random.js";

Math.random = () => bytes(6).reduce((sum, byte) => (sum + byte) / 256, 0);
