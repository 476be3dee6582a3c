// Passwords of consumers.
import * as host from "sluice:filter/passwords@0.1.1";

import { checked } from "./errors.js";
import { encode } from "./utf8.js";

const verify = checked("passwords.authenticate", host.authenticate);

/** Makes the consumer with this user name and password the caller, and answers its name; undefined for a wrong one. */
export const authenticate = (username, password) => verify(username, typeof password === "string" ? encode(password) : password);
