// Preconditions in one line.
#pragma once

#include <stdexcept>
#include <string>

namespace shoal {

// Throws std::invalid_argument with the message unless the condition holds.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void require(bool condition, const std::string& message) { require(condition, message.c_str()); }

}  // namespace shoal
