// A page that only has to stay current.
import { live } from "./live.js";

live();
