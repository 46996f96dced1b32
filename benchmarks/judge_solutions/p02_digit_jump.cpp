// CodeChef digjump: breadth-first search; a digit's positions are joined once.
#include <bits/stdc++.h>

int main() {
    std::string digits;
    std::cin >> digits;
    int n = digits.size();
    std::vector<std::vector<int>> places(10);
    for (int i = 0; i < n; i++) places[digits[i] - '0'].push_back(i);
    std::vector<int> steps(n, -1);
    std::queue<int> queue;
    steps[0] = 0;
    queue.push(0);
    while (!queue.empty()) {
        int i = queue.front();
        queue.pop();
        auto next = std::exchange(places[digits[i] - '0'], {});
        next.push_back(i - 1);
        next.push_back(i + 1);
        for (int j : next)
            if (j >= 0 && j < n && steps[j] < 0) {
                steps[j] = steps[i] + 1;
                queue.push(j);
            }
    }
    std::cout << steps[n - 1] << "\n";
}
